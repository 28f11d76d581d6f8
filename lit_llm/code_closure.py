"""The hashes of the code that a stage runs: the modules it names, and what these import of lit_llm and the user's own.

Of what is installed (torch, Lightning ...) only the named file counts: the versions of packages say the rest.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lit_llm.config import texts
from lit_llm.errors import UserError
from lit_llm.signatures import absolute, module_file, modules_of, tree

ALWAYS = ("lit_llm.run", "lit_llm.config")
# What shows, starts or checks runs, and cannot change what they compute.
LEFT_OUT = (
    "lit_llm.command_line", "lit_llm.validation", "lit_llm.signatures", "lit_llm.sweep", "lit_llm.launch",
    "lit_llm.callbacks.progress", "lit_llm.model_card", "lit_llm.pipeline", "lit_llm.arguments", "lit_llm.report",
    "lit_llm.closing", "lit_llm.code_closure", "lit_llm.stage_cache", "lit_llm.overrides", "lit_llm.steps",
    "lit_llm.annotations", "lit_llm.verification", "lit_llm.left_out",
)  # fmt: skip


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the syntax tree of every module that a run of ``config`` can reach (comments do not count)."""
    return {module: _hash(module) for module in sorted(closure({*ALWAYS, *targets(config)}))}


def targets(config: Any) -> Iterator[str]:
    """The modules of every ``_target_`` and every other dotted path to code in a plain configuration."""
    for _, text in texts(config):
        if _DOTTED.fullmatch(text):
            try:
                yield modules_of(text)
            except UserError:  # a file's name, or other text with a dot
                continue


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and all that they import from lit_llm and from code that is not installed, inside functions too."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or _left_out(module) or module_file(module) is None:
            continue
        found.add(module)
        if _own(module):
            waiting += [item for item in imports(module) if item not in found and _own(item)]
    return found


@cache
def _own(module: str) -> bool:
    """Whether a module is of lit_llm or a file of the user's: not of Python's library, not of an installed package."""
    if module == "lit_llm" or module.startswith("lit_llm."):
        return True
    path = module_file(module)
    return path is not None and not any(path.resolve().is_relative_to(place) for place in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(place).resolve() for name in names if (place := sysconfig.get_path(name)))


def _left_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in LEFT_OUT)


@cache
def imports(module: str) -> tuple[str, ...]:
    """The modules with a Python file that a module names in its imports, relative ones too."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")}
    return tuple(sorted(name for name in found if module_file(name) is not None))


@cache
def _hash(module: str) -> str:
    path = module_file(module)
    assert isinstance(path, Path)
    source = path.read_bytes()
    if _own(module):
        source = ast.dump(_without_docstrings(ast.parse(source))).encode()
    return hashlib.sha256(source).hexdigest()


def _without_docstrings(node: ast.Module) -> ast.Module:
    for item in ast.walk(node):
        body = getattr(item, "body", None)
        if isinstance(item, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                item.body = body[1:] or [ast.Pass()]
    return node
