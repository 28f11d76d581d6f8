"""The hashes of the code that a stage runs: the modules it names and everything in lit_llm that they import."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lit_llm.signatures import module_file, modules_of, tree

ALWAYS = ("lit_llm.run", "lit_llm.config")
# What shows, starts or checks runs, and cannot change what they compute.
LEFT_OUT = (
    "lit_llm.command_line", "lit_llm.validation", "lit_llm.signatures", "lit_llm.sweep", "lit_llm.launch",
    "lit_llm.callbacks.progress", "lit_llm.model_card", "lit_llm.pipeline", "lit_llm.arguments", "lit_llm.report",
    "lit_llm.closing", "lit_llm.code_closure", "lit_llm.stage_cache", "lit_llm.overrides", "lit_llm.steps",
    "lit_llm.annotations",
)  # fmt: skip


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the syntax tree of every module that a run of ``config`` can reach (comments do not count)."""
    return {module: _hash(module) for module in sorted(closure({*ALWAYS, *targets(config)}))}


def targets(config: Any) -> Iterator[str]:
    """The modules of every ``_target_`` and every dotted path to lit_llm in a plain configuration."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)
    elif isinstance(config, str) and config.startswith("lit_llm."):
        yield modules_of(config)


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and all that they import from lit_llm, inside functions too."""
    found: set[str] = set()
    waiting = [module for module in modules if module.startswith("lit_llm")]
    while waiting:
        module = waiting.pop()
        if module in found or _left_out(module) or module_file(module) is None:
            continue
        found.add(module)
        waiting += [item for item in imports(module) if item not in found]
    return found


def _left_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in LEFT_OUT)


@cache
def imports(module: str) -> tuple[str, ...]:
    """The lit_llm modules that a module names in its imports, relative ones too."""
    path = module_file(module)
    assert path is not None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return tuple(sorted(name for name in found if name.startswith("lit_llm") and module_file(name) is not None))


@cache
def _hash(module: str) -> str:
    path = module_file(module)
    assert isinstance(path, Path)
    return hashlib.sha256(
        ast.dump(_without_docstrings(ast.parse(path.read_text(encoding="utf-8")))).encode()
    ).hexdigest()


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
