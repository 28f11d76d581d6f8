"""The small commands' front doors: a misspelt key is told before torch is imported, from the source of their keys."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module

from lit_llm.config.definitions import definitions
from lit_llm.errors import UserError
from lit_llm.runtime.arguments import split_word
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


def _command(module: str, arguments: str) -> None:
    try:
        check_words(arguments, sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if not {"--help", "-h"} & set(sys.argv[1:]):
        started(f"{arguments.rpartition('.')[2].removesuffix('Options').lower()}: loading torch ...")
    import_module(module).main()


def evaluate() -> None:
    """lit-llm-evaluate"""
    _command("lit_llm.training.evaluate_command", "lit_llm.training.evaluate_command.Evaluate")


def generate() -> None:
    """lit-llm-generate"""
    _command("lit_llm.generation.command", "lit_llm.generation.command.Generate")


def export() -> None:
    """lit-llm-export"""
    _command("lit_llm.export.command", "lit_llm.export.command.Export")


def chat() -> None:
    """lit-llm-chat"""
    _command("lit_llm.generation.chat", "lit_llm.generation.chat.ChatOptions")


def rank() -> None:
    """lit-llm-rank"""
    _command("lit_llm.feedback.web.command", "lit_llm.feedback.rank_arguments.Rank")
