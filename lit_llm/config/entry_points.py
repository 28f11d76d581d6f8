"""The small commands' front doors: a misspelt key is told before torch is imported, from the source of their keys."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from lit_llm.config.definitions import definitions
from lit_llm.config.task_files import check_tasks
from lit_llm.errors import UserError
from lit_llm.runtime.arguments import split_word
from lit_llm.runtime.given_texts import check_texts
from lit_llm.runtime.node_package import missing_in
from lit_llm.runtime.terminal import started


def check_words(arguments: str, words: Sequence[str]) -> None:
    """Raises UserError for a word that names no key of the dataclass at the dotted path ``arguments``."""
    known = dict.fromkeys(_fields(arguments))
    for word in () if {"--help", "-h"} & set(words) else words:
        split_word(word, known)


def _fields(arguments: str) -> Iterator[str]:
    """The names of a dataclass's fields, those that it inherits too, from its source: its module may import torch."""
    [found] = definitions(arguments)
    assert isinstance(found.node, ast.ClassDef), arguments
    for base in found.node.bases:
        yield from _fields(f"{found.module}.{ast.unparse(base)}")
    for item in found.node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id


def _command(module: str, arguments: str, checks: Mapping[str, Callable[[str], None]] | None = None) -> None:
    """``checks``: of keys, what raises UserError for a value that cannot be used."""
    try:
        check_words(arguments, sys.argv[1:])
        for word in sys.argv[1:]:
            key, _, text = word.partition("=")
            if checks is not None and key in checks:
                checks[key](text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if not {"--help", "-h"} & set(sys.argv[1:]):
        started(f"{arguments.rpartition('.')[2].removesuffix('Options').lower()}: loading torch ...")
    import_module(module).main()


def _check_node(text: str) -> None:
    if text.lower() not in ("none", "null", "") and (wrong := missing_in(Path(text).expanduser())) is not None:
        raise UserError(f"node_llama_cpp={text}: {wrong}")


def _check_texts(text: str) -> None:
    if text.lower() not in ("none", "null", ""):
        check_texts(Path(text).expanduser())


def evaluate() -> None:
    """lit-llm-evaluate"""
    _command("lit_llm.training.evaluate_command", "lit_llm.training.evaluate_command.Evaluate", {"tasks": check_tasks})


def generate() -> None:
    """lit-llm-generate"""
    _command("lit_llm.generation.command", "lit_llm.generation.command.Generate")


def export() -> None:
    """lit-llm-export"""
    checks = {"node_llama_cpp": _check_node, "texts": _check_texts}
    _command("lit_llm.export.command", "lit_llm.export.command.Export", checks)


def chat() -> None:
    """lit-llm-chat"""
    _command("lit_llm.generation.chat", "lit_llm.generation.chat.ChatOptions")


def rank() -> None:
    """lit-llm-rank"""
    _command("lit_llm.feedback.web.command", "lit_llm.feedback.rank_arguments.Rank")
