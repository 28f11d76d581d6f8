"""Signatures of what ``_target_`` names, read from source files: nothing heavy is imported to check a key."""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: str | None  # its source text
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: tuple[Parameter, ...]
    open: bool = False  # takes **kwargs: an unknown key cannot be told from a known one
    function: bool = False  # of a function (or method), not of a class


OPTIONS = "options"


@cache
def signature(target: str) -> Signature:
    """The signature of the function or class at a dotted path. Raises UserError when there is none.

    Where a class takes ``options`` and names their dataclass as ``Options``, its fields stand in their place: so a
    configuration gives them.
    """
    found = _as_written(target)
    options = options_of(target)
    if options is None:
        return found
    own = [each for each in found.parameters if each.name != OPTIONS]
    named = {each.name for each in own}
    fields = [each for each in signature(options).parameters if each.name not in named]
    return replace(found, parameters=(*own, *fields))


def options_of(target: str) -> str | None:
    """The dotted path of the dataclass that holds the options of a class; None: it takes none as one object."""
    if not any(each.name == OPTIONS for each in _as_written(target).parameters):
        return None
    return _options_named(target)


@cache
def _options_named(target: str) -> str | None:
    """What a class, or else the first of the classes that it is made of, binds to the name ``Options``."""
    module, names = split(target)
    if module_file(module) is None or len(names) != 1:
        return _options_by_import(target)
    node = _definition(tree(module), names[0])
    if node is None:
        elsewhere = _imported_from(module, names[0]) or _alias(module, names[0])
        return _options_named(elsewhere) if elsewhere else _options_by_import(target)
    if not isinstance(node, ast.ClassDef):
        return None
    for item in node.body:
        if "Options" in _names_bound(item) and item.value is not None:  # type: ignore[attr-defined]
            return _spelt_out(module, item.value)  # type: ignore[attr-defined]
    paths = (_spelt_out(module, base) for base in node.bases)
    return next((found for path in paths if path and (found := _options_named(path))), None)


def _alias(module: str, name: str) -> str | None:
    """What a module's ``name = Other`` names."""
    values = [item.value for item in tree(module).body if name in _names_bound(item)]  # type: ignore[attr-defined]
    return _spelt_out(module, values[0]) if values and isinstance(values[0], ast.Name | ast.Attribute) else None


def _names_bound(item: ast.stmt) -> set[str]:
    """The names that an assignment binds."""
    places = item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
    return {place.id for place in places if isinstance(place, ast.Name)}


def _options_by_import(target: str) -> str | None:
    """As ``_by_import``, of a class that has no definition in a source file."""
    kind = getattr(_imported(target), "Options", None)
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else None


def _spelt_out(module: str, node: ast.expr) -> str | None:
    """The dotted path of a name as a module sees it."""
    first, *rest = ast.unparse(node).split("[")[0].split(".")
    place = f"{module}.{first}" if _definition(tree(module), first) else _imported_from(module, first)
    return ".".join((place, *rest)) if place else None


@cache
def _as_written(target: str) -> Signature:
    module, names = split(target)
    source = module_file(module)
    if source is None:
        return _by_import(target)
    found = _find(module, names)
    return found if found is not None else _by_import(target)


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


def _find(module: str, names: list[str]) -> Signature | None:
    """Follows ``names`` through a module's syntax tree; None when that needs an import after all."""
    node = _definition(tree(module), names[0])
    if node is None:
        elsewhere = _imported_from(module, names[0])
        return _as_written(".".join([elsewhere, *names[1:]])) if elsewhere else None
    for name in names[1:]:
        if not isinstance(node, ast.ClassDef):
            return None
        node = _definition(node, name)
    if isinstance(node, ast.ClassDef):
        return _class_signature(module, node)
    if not isinstance(node, _FUNCTIONS):
        return None
    return replace(_function_signature(module, node, bound=len(names) > 1), function=True)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _definition(scope: ast.Module | ast.ClassDef, name: str) -> ast.AST | None:
    for node in scope.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and node.name == name:
            return node
    return None


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` in a module names; dots at its beginning count from the module's package."""
    if not node.level:
        return node.module or ""
    path = module_file(module)
    inside = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    parents = inside.split(".")[: len(inside.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _imported_from(module: str, name: str) -> str | None:
    return _imports(module).get(name)


@cache
def _imports(module: str) -> dict[str, str]:
    """Where a module imports its names from; of several places the first."""
    found: dict[str, str] = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, f"{absolute(module, node)}.{alias.name}")
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, alias.name)
    return found


def _class_signature(module: str, node: ast.ClassDef) -> Signature | None:
    init = _definition(node, "__init__")
    if isinstance(init, _FUNCTIONS):
        return _function_signature(module, init, bound=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return _dataclass_signature(module, node)
    return next(_bases(module, node), Signature(()))


def _dataclass_signature(module: str, node: ast.ClassDef) -> Signature:
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    own = {
        item.target.id: Parameter(item.target.id, _annotation(module, item.annotation), item.value is None)  # type: ignore[union-attr]
        for item in fields
        if "ClassVar" not in ast.unparse(item.annotation)
    }
    inherited = [parameter for base in _bases(module, node) for parameter in base.parameters]
    return Signature(tuple(({parameter.name: parameter for parameter in inherited} | own).values()))


def _bases(module: str, node: ast.ClassDef) -> Iterator[Signature]:
    """The signatures of the classes that a class is made of, as far as they have one."""
    for base in node.bases:
        names = ast.unparse(base).split("[")[0].split(".")
        found = _find(module, names) if _definition(tree(module), names[0]) else None
        if found is None:
            elsewhere = _imported_from(module, names[0])
            found = _as_written(".".join([elsewhere, *names[1:]])) if elsewhere else None
        if found is not None:
            yield found


def _function_signature(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, *, bound: bool) -> Signature:
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    optional = len(given.defaults)
    rows = [(item, index < len(plain) - optional) for index, item in enumerate(plain)]
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    rows = rows[1:] if bound and not static else rows
    rows += [(item, default is None) for item, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    parameters = tuple(
        Parameter(item.arg, _annotation(module, item.annotation) if item.annotation else None, required)
        for item, required in rows
    )
    return Signature(parameters, open=given.kwarg is not None)


def _annotation(module: str, node: ast.expr) -> str:
    """An annotation's text, in which names given to types (``Mode = Literal[...]``), here or where they are imported
    from, are spelt out."""
    if isinstance(node, ast.Name):
        for item in tree(module).body:
            if isinstance(item, ast.Assign) and any(getattr(t, "id", None) == node.id for t in item.targets):
                return _annotation(module, item.value)
        elsewhere, _, name = (_imported_from(module, node.id) or "").rpartition(".")
        if elsewhere.split(".")[0] == module.split(".")[0] and module_file(elsewhere) is not None:
            return _annotation(elsewhere, ast.Name(name))
    if isinstance(node, ast.BinOp):
        return f"{_annotation(module, node.left)} | {_annotation(module, node.right)}"
    return ast.unparse(node)


def _by_import(target: str) -> Signature:
    """The fallback for code outside lit_llm: import it. Built-in callables without a signature take anything."""
    value = _imported(target)
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return Signature((), open=True)
    kinds = inspect.Parameter
    return Signature(
        tuple(
            Parameter(
                item.name,
                None if item.annotation is kinds.empty else _annotation_text(item.annotation),
                item.default is kinds.empty,
            )
            for item in parameters
            if item.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
        ),
        open=any(item.kind is kinds.VAR_KEYWORD for item in parameters),
        function=not inspect.isclass(value),
    )


def _imported(target: str) -> Any:
    module, names = split(target)
    try:
        value: Any = importlib.import_module(module)
        for name in names:
            value = getattr(value, name)
    except ImportError as error:
        raise UserError(f"{target}: cannot be imported ({error})") from None
    except AttributeError:
        raise UserError(f"{target}: module {module} has no {'.'.join(names)}{_nearest_name(module, names)}") from None
    return value


def _annotation_text(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _nearest_name(module: str, names: list[str]) -> str:
    near = nearest(names[0], dir(importlib.import_module(module)))
    return f"; did you mean {near}?" if near else ""
