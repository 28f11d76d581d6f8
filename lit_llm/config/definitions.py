"""Where a dotted name is defined, followed through imports and aliases in the source files: nothing is imported.

``lit_llm.training.build.torch.load`` is defined in torch, whatever it is called.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from lit_llm.errors import UserError
from lit_llm.runtime.source_files import absolute, module_file, split, tree
from lit_llm.runtime.suggestions import nearest

_DEPTH = 20  # aliases of aliases


@dataclass(frozen=True)
class Definition:
    """Where a name is bound to a function, a class or a value."""

    module: str
    names: tuple[str, ...]  # ("Class", "method")
    node: ast.AST | None  # None: the module has no source file

    @property
    def path(self) -> str:
        return ".".join((self.module, *self.names))


def definitions(target: str) -> Iterator[Definition]:
    """Every place where the name at a dotted path may be bound. Raises UserError where there is none."""
    module, names = split(target)
    found = list(_bound(module, tuple(names), 0))
    if not found:
        raise UserError(f"{target}: module {module} has no {'.'.join(names)}{_nearest(module, names[0])}")
    yield from found


@cache
def _bound(module: str, names: tuple[str, ...], depth: int) -> tuple[Definition, ...]:
    """The definitions of ``names`` as seen in ``module``; empty: there are none."""
    if depth > _DEPTH or not names:  # a module itself is nothing to build
        return ()
    if module_file(module) is None:  # an extension: it has no source to follow names in
        return (Definition(module, names, None),)
    found: list[Definition] = []
    stars: list[str] = []
    for node in _statements(tree(module).body):
        if isinstance(node, _DEFINES) and node.name == names[0]:
            found += _inside(module, node, names, 1, depth)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(base)
                elif (alias.asname or alias.name) == names[0]:
                    found += _elsewhere(f"{base}.{alias.name}", names[1:], depth)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == names[0]:
                    place = alias.name if alias.asname else names[0]
                    found += _elsewhere(place, names[1:], depth)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found += _assigned(module, node, names, depth)
    for base in stars if not found else ():
        found += _elsewhere(base, names, depth)
    return tuple(found)


_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those under if, try, with and loops too."""
    for node in body:
        yield node
        if not isinstance(node, _DEFINES):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _elsewhere(place: str, rest: tuple[str, ...], depth: int) -> tuple[Definition, ...]:
    """The definitions of what is imported from ``place``; what cannot be found there counts as defined there."""
    dotted = ".".join((place, *rest))
    try:
        module, names = split(dotted)
    except UserError:
        module, names = dotted.rpartition(".")[0] or dotted, [dotted.rpartition(".")[2]]
    found = _bound(module, tuple(names), depth + 1)
    return found or (Definition(module, tuple(names), None),)


def _assigned(
    module: str, node: ast.Assign | ast.AnnAssign, names: tuple[str, ...], depth: int
) -> Iterator[Definition]:
    """``name = other.name`` is the other one; any other value is defined where it stands."""
    places = node.targets if isinstance(node, ast.Assign) else [node.target]
    if node.value is None or names[0] not in {getattr(place, "id", None) for place in places}:
        return
    text = ast.unparse(node.value)
    if _ALIAS.fullmatch(text):
        yield from _bound(module, (*text.split("."), *names[1:]), depth + 1)
    else:
        yield Definition(module, names, node)


_ALIAS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _inside(module: str, node: ast.AST, names: tuple[str, ...], at: int, depth: int) -> Iterator[Definition]:
    """The definitions of ``Class.method``: in the class itself, or in a base class."""
    if at == len(names):
        yield Definition(module, names, node)
        return
    if not isinstance(node, ast.ClassDef):
        return
    found = False
    for item in _statements(node.body):
        if isinstance(item, _DEFINES) and item.name == names[at]:
            found = True
            yield from _inside(module, item, names, at + 1, depth)
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            for one in _assigned(module, item, names[at:], depth):
                found = True
                yield one
    if not found:
        for base in node.bases:
            text = ast.unparse(base).split("[")[0]
            yield from _bound(module, (*text.split("."), *names[at:]), depth + 1)


def _nearest(module: str, name: str) -> str:
    if module_file(module) is None:
        return ""
    known = [node.name for node in tree(module).body if isinstance(node, _DEFINES)]
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
