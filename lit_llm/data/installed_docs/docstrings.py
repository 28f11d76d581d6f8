"""Docstrings out of source files, through ``ast``: nothing is imported, nothing is run."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_ADDERS = ("add_docstr", "add_newdoc", "add_docstr_all")  # torch and numpy document compiled functions so
MAX_SIGNATURE = 140


@dataclass(frozen=True, slots=True)
class Member:
    """A module, class, function or method with its docstring."""

    module: str
    name: str  # within the module; empty for the module itself
    kind: str  # "module", "class", "function", "method", "topic"
    arguments: tuple[str, ...]  # as written, without annotations, self and cls
    doc: str

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def signature(self) -> str:
        return f"{self.name.rpartition('.')[2]}({', '.join(self.arguments)})"


def members(file: Path, module: str) -> list[Member]:
    """Everything documented in a file; an unreadable file has nothing."""
    try:
        source = file.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if module == "pydoc_data.topics":
        return list(_topics(tree))
    found = [*_walk(tree, module, "", "module"), *_added(tree, module)]
    return [m for m in found if m.doc]


def _walk(node: ast.AST, module: str, name: str, kind: str) -> Iterator[Member]:
    doc = ast.get_docstring(node, clean=False) if isinstance(node, (ast.Module, *_DEFINITIONS)) else None
    if doc:
        yield Member(module, name, kind, _arguments(node, kind), inspect.cleandoc(doc))
    if kind not in ("module", "class"):
        return  # functions inside functions are nobody's interface
    for child in getattr(node, "body", []):
        if isinstance(child, _DEFINITIONS) and not (child.name.startswith("_") and child.name != "__call__"):
            inner = "class" if isinstance(child, ast.ClassDef) else "method" if kind == "class" else "function"
            yield from _walk(child, module, f"{name}.{child.name}".lstrip("."), inner)


def _arguments(node: ast.AST, kind: str) -> tuple[str, ...]:
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return _arguments(inits[0], "method") if inits else ()
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ()
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    written = [_argument(a.arg, d) for a, d in zip(plain, defaults, strict=True)]
    if kind == "method" and written and written[0] in ("self", "cls"):
        written = written[1:]
    if given.vararg:
        written.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        written.append("*")
    written += [_argument(a.arg, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        written.append(f"**{given.kwarg.arg}")
    if sum(map(len, written)) > MAX_SIGNATURE:
        written = [w.split("=")[0] for w in written]
    return tuple(written)


def _argument(name: str, default: ast.expr | None) -> str:
    if default is None:
        return name
    text = ast.unparse(default)
    return f"{name}={text}" if len(text) <= 20 else f"{name}=..."


def _added(tree: ast.Module, module: str) -> Iterator[Member]:
    """``add_docstr(torch.abs, "...")`` and ``add_newdoc("numpy", "abs", "...")``."""
    for node in tree.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or getattr(call.func, "id", getattr(call.func, "attr", "")) not in _ADDERS:
            continue
        doc, names = _last_text(call.args[-1]) if call.args else None, [_dotted(a) for a in call.args[:-1]]
        if not doc or not all(names) or not names:
            continue
        if isinstance(call.args[-1], ast.Tuple):  # (attribute, text)
            names.append(_dotted(call.args[-1].elts[0]))
        qualified = ".".join(names)
        home, _, name = qualified.rpartition(".")
        doc = doc.replace("{{", "{").replace("}}", "}")
        yield Member(home or module, name, "function", (), inspect.cleandoc(doc))


def _last_text(node: ast.expr) -> str | None:
    """The text of a constant, also under ``.format(...)``, ``+`` or as the last of a tuple."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Tuple) and node.elts:
        return _last_text(node.elts[-1])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _last_text(node.func.value)
    if isinstance(node, ast.BinOp):
        parts = [_last_text(node.left), _last_text(node.right)]
        return "".join(p for p in parts if p) or None
    return None


def _dotted(node: ast.expr) -> str:
    text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    text = str(text).removeprefix("torch._C.").replace("TensorBase", "Tensor")
    return text.replace("numpy._core.umath", "numpy").replace("numpy._core.multiarray", "numpy")


def _topics(tree: ast.Module) -> Iterator[Member]:
    """The language reference that ``help()`` shows: a dict of texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                text = _last_text(value)
                if isinstance(key, ast.Constant) and text:
                    yield Member("pydoc_data.topics", str(key.value), "topic", (), inspect.cleandoc(text))
