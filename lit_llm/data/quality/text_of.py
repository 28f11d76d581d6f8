"""What of a record is compared with other records."""

from __future__ import annotations

from collections.abc import Iterable

from lit_llm.data.filters import Record
from lit_llm.records import Comparison, Document, Labelled, Message


def all_of(record: Record) -> str:
    """All that a record says."""
    if isinstance(record, Document):
        return record.text
    if isinstance(record, Comparison):
        return "\n".join([_said(record.prompt), *record.completions])
    if isinstance(record, Labelled):
        return f"{_said(record.prompt)}\n{record.completion}"
    return _said(record.messages)


def asked_of(record: Record) -> str:
    """A document's text, or what the user says in a conversation.

    Answers are left out: a question and its answer are given away by the question, and one answer to several questions
    is what is to be learned. System messages are left out too, since many conversations have the same.
    """
    if isinstance(record, Document):
        return record.text
    messages = record.prompt if isinstance(record, Comparison | Labelled) else record.messages
    return "\n".join(message.content for message in messages if message.role == "user") or all_of(record)


def _said(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)
