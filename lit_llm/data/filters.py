"""Cleaning of texts, exact duplicates, and the overlap between what is trained and what is held out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lit_llm.data.row_keys import ABOUT
from lit_llm.records import Comparison, Document, Example, Labelled, Message, Prompt

Record = Document | Example | Comparison | Labelled | Prompt

ALTERED = ("line_ends", "nul_characters")
_LINE_ENDS = re.compile("\r\n?")


def clean(text: str) -> str:
    """One kind of line end (\\n for \\r\\n and \\r) and no NUL. Nothing else is altered."""
    return str(cleaned(text, Counter()))


def cleaned(value: Any, altered: Counter[str]) -> Any:
    """``clean`` of a text, or of all texts in lists and objects; what is altered is counted by ``ALTERED``."""
    if isinstance(value, str):
        if "\r" in value:
            value, number = _LINE_ENDS.subn("\n", value)
            altered["line_ends"] += number
        if "\0" in value:
            altered["nul_characters"] += value.count("\0")
            value = value.replace("\0", "")
        return value
    if isinstance(value, dict):
        return {key: cleaned(one, altered) for key, one in value.items()}
    return [cleaned(one, altered) for one in value] if isinstance(value, list) else value


def cleaned_row(value: Mapping[str, Any], altered: Counter[str]) -> dict[str, Any]:
    """A row with its texts cleaned, but for what is about it (``row_keys.ABOUT``): that is not trained.

    ``source`` may be either, where a row is from or the text of a task pair.
    """
    return {key: one if key in ABOUT and key != "source" else cleaned(one, altered) for key, one in value.items()}


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(f"{len(p)}:{p}" for p in parts).encode("utf-8", "surrogatepass")).digest()[:16]


def _flat(messages: Iterable[Message], *, trained: bool = True) -> Iterator[str]:
    for message in messages:
        masked = trained and message.role == "assistant" and not message.trained
        yield f"{message.role} untrained" if masked else message.role
        yield message.content
        if not message.plain:
            calls = (part for call in message.calls for part in (call.name, call.arguments, call.id))
            yield from ("more", message.thoughts, message.name, message.call_id, *calls)


def content_key(record: Record) -> bytes:
    """16 bytes of SHA-256 of all that a record says, its place and its tags left out."""
    if isinstance(record, Document):
        return _digest(record.text)
    if isinstance(record, Comparison):
        ranks = (str(r) for r in record.ranks)
        counts = [repr(n) for n, usual in ((record.weight, 1.0), (record.margin, 0.0)) if n != usual]
        return _digest(*_flat(record.prompt), "|", *record.completions, "|", *ranks, record.annotator, *counts)
    if isinstance(record, Labelled):
        counts = [repr(record.weight)] if record.weight != 1.0 else []
        return _digest(*_flat(record.prompt), "|", record.completion, "|", str(record.label), record.annotator, *counts)
    answer = [record.tags["answer"]] if isinstance(record, Prompt) and "answer" in record.tags else []
    return _digest(*_flat(record.messages), *answer)


def group_key(record: Record) -> bytes:
    """What must not be split: a document, or all that shares a prompt (its last answer and who ranked left out)."""
    if isinstance(record, Document):
        return _digest(record.text)
    if isinstance(record, Comparison | Labelled):
        return _digest(*_flat(record.prompt))
    asked = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
    messages = asked or record.messages  # an answer to nothing stands for itself
    return _digest(*_flat(messages, trained=False))


def share(key: bytes) -> float:
    """A number in [0, 1), the same for the same key on every machine: decides the split."""
    return int.from_bytes(key[:8], "big") / 2**64


def without_overlap(train: Sequence[Record], heldout: Iterable[Record]) -> tuple[list[Record], int]:
    """Training records of which no held-out record has the text or the prompt, and how many were dropped.

    The prompt decides and not the whole record: another answer to a held-out question gives the question away too.
    """
    known = {group_key(record) for record in heldout}
    kept = [record for record in train if group_key(record) not in known]
    return kept, len(train) - len(kept)
