"""Why a chat template refuses a record, and which keys of its row would have to be left out for it to take the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from lit_llm.data.tool_messages import THOUGHTS
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Example, Labelled, Message, Prompt

Refusable: TypeAlias = Example | Prompt | Comparison | Labelled
"""What a chat template renders."""


def why_refused(record: Refusable, encode: Callable[[Any], Any]) -> str:
    """What the template says, and the value of ``data.ignore_keys`` with which it takes the record; that is tried."""
    what = "the chat template makes no token of it"
    try:
        encode(record)
    except UserError as error:
        what = str(error)
    for keys, without in _without(record):
        try:
            encode(without)
        except UserError:
            continue
        return f"{what}; data.ignore_keys=[{','.join(keys)}] reads such rows without {_SAID[keys]}"
    return what


_TOOLS, _SYSTEM = ("tools",), ("system",)
_SAID = {
    _TOOLS: "their tools",
    THOUGHTS: "the reasoning that stands under a key of its own",
    _SYSTEM: "the system message that stands under a key of its own",
}


def _without(record: Refusable) -> Iterator[tuple[tuple[str, ...], Refusable]]:
    """The record without what a key of a row may hold: (keys, record) of each that changes it."""
    messages = _messages(record)
    for keys, kept in (
        (_TOOLS, [one for one in messages if one.role != "tools"]),
        (THOUGHTS, [replace(one, thoughts="") for one in messages]),
        (_SYSTEM, [one for one in messages if one.role != "system"]),
    ):
        if kept and kept != list(messages):
            yield keys, _holding(record, kept)


def _messages(record: Refusable) -> Sequence[Message]:
    return record.messages if isinstance(record, Example | Prompt) else record.prompt


def _holding(record: Refusable, messages: Sequence[Message]) -> Refusable:
    if isinstance(record, Example | Prompt):
        return replace(record, messages=tuple(messages))
    return replace(record, prompt=tuple(messages))
