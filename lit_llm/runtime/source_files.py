"""Python source files by the dotted names of what they define: found and parsed, nothing is imported."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
from functools import cache
from pathlib import Path

from lit_llm.errors import UserError


@cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module with a Python source file."""
    source = module_file(module)
    assert source is not None, module
    return ast.parse(source.read_text(encoding="utf-8"))


def modules_of(target: str) -> str:
    """The module of a dotted path to a function or class."""
    return split(target)[0]


def split(target: str) -> tuple[str, list[str]]:
    """ "a.b.C.method" -> the longest module "a.b" and the names within it."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if module_file(module) is not None or _importable(module):
            return module, parts[end:]
    raise UserError(f"{target}: no module of this name can be imported")


@cache
def module_file(module: str) -> Path | None:
    """The Python file of a module, found beside its top package: nothing is imported."""
    top, *rest = module.split(".")
    spec = _top_level(top)
    if spec is None:
        return None
    if not rest:
        origin = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
        return origin if origin is not None and origin.is_file() else None  # in a zip file there is none
    for place in spec.submodule_search_locations or ():
        base = Path(place).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def archive(module: str) -> Path | None:
    """The zip file (``.egg``, ``.whl``) that the module's top package is imported from, if it is."""
    spec = _top_level(module.split(".")[0])
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is None or origin.exists():
        return None
    return next((place for place in origin.parents if place.is_file()), None)


@cache
def _top_level(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _importable(module: str) -> bool:
    """Extension modules and the like, whose signatures need an import."""
    return "." not in module and _top_level(module) is not None


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` in a module names; dots at its beginning count from the module's package."""
    if not node.level:
        return node.module or ""
    path = module_file(module)
    inside = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    parents = inside.split(".")[: len(inside.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])
