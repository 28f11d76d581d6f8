"""What of a record is compared with other records, judged and counted."""

from __future__ import annotations

from lit_llm.data.filters import Record
from lit_llm.records import Comparison, Document, Labelled


def texts_of(record: Record) -> tuple[str, ...]:
    """All texts of a record: of messages with their reasoning and calls (``Message.texts``), of judgements with what is
    judged."""
    if isinstance(record, Document):
        return (record.text,)
    messages = record.prompt if isinstance(record, Comparison | Labelled) else record.messages
    told = tuple(text for message in messages for text in message.texts)
    if isinstance(record, Comparison):
        return (*told, *record.completions)
    return (*told, record.completion) if isinstance(record, Labelled) else told


def all_of(record: Record) -> str:
    """All that a record says."""
    return "\n".join(texts_of(record))


def asked_of(record: Record) -> str:
    """A document's text, or what the user says in a conversation.

    Answers are left out: a question and its answer are given away by the question, and one answer to several questions
    is what is to be learned. System messages are left out too, since many conversations have the same.
    """
    if isinstance(record, Document):
        return record.text
    messages = record.prompt if isinstance(record, Comparison | Labelled) else record.messages
    return "\n".join(message.content for message in messages if message.role == "user") or all_of(record)
