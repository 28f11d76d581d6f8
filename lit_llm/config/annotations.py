"""Whether a plain value can be what an annotation says, judged by the annotation's source text: nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def fits(value: Any, annotation: str) -> bool:
    """Whether a plain value can be what an annotation's source text says; what cannot be judged fits."""
    try:
        return _fits(value, ast.parse(annotation, mode="eval").body)
    except SyntaxError:
        return True


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "float": (int, float), "None": (type(None),),
    "list": (list, tuple), "tuple": (list, tuple), "Sequence": (list, tuple), "Iterable": (list, tuple),
    "set": (list, tuple), "frozenset": (list, tuple), "dict": (Mapping,), "Mapping": (Mapping,),
    "Path": (str,), "PathLike": (str,),
}  # fmt: skip


def _fits(value: Any, node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _fits(value, node.left) or _fits(value, node.right)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # a quoted annotation
            return fits(value, node.value)
        return node.value is not None or value is None
    if isinstance(node, ast.Subscript):
        return _fits_generic(value, node)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    kinds = _PLAIN.get(name or "")
    if kinds is None:
        return True  # a class of the program: what is built from it says more
    return isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _fits_generic(value: Any, node: ast.Subscript) -> bool:
    name = ast.unparse(node.value).rsplit(".", 1)[-1]
    inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return any(isinstance(item, ast.Constant) and item.value == value for item in inner)
    if name == "Optional":
        return value is None or _fits(value, inner[0])
    if name == "Union":
        return any(_fits(value, item) for item in inner)
    if name in ("Annotated", "Final"):
        return _fits(value, inner[0])
    if name in ("dict", "Mapping"):
        return isinstance(value, Mapping) and all(_fits(item, inner[1]) for item in value.values())
    if name in ("list", "Sequence", "Iterable", "set", "frozenset"):
        return isinstance(value, (list, tuple)) and all(_fits(item, inner[0]) for item in value)
    if name == "tuple":
        return _fits_tuple(value, inner)
    return True


def _fits_tuple(value: Any, inner: list[ast.expr]) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
        return all(_fits(item, inner[0]) for item in value)
    return len(value) == len(inner) and all(_fits(item, kind) for item, kind in zip(value, inner, strict=True))
