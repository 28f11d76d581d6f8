"""Cleaning of texts, exact duplicates, and the overlap between what is trained and what is held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from lit_llm.records import Comparison, Document, Example, Labelled, Message, Prompt

Record = Document | Example | Comparison | Labelled | Prompt

# C0 and C1 controls but tab and newline; the byte order mark; half surrogates never get here (formats.py).
_CONTROL = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")  # of either: most texts have none


def clean(text: str) -> str:
    """One kind of line end, no control characters, no byte order mark. Nothing else: no normalization, no trimming."""
    if _UNCLEAN.search(text):
        text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    return text


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(f"{len(p)}:{p}" for p in parts).encode("utf-8", "surrogatepass")).digest()[:16]


def _flat(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        yield message.role
        yield message.content


def content_key(record: Record) -> bytes:
    """16 bytes of SHA-256 of all that a record says, its place and its tags left out."""
    if isinstance(record, Document):
        return _digest(record.text)
    if isinstance(record, Comparison):
        ranks = (str(r) for r in record.ranks)
        return _digest(*_flat(record.prompt), "|", *record.completions, "|", *ranks, record.annotator)
    if isinstance(record, Labelled):
        return _digest(*_flat(record.prompt), "|", record.completion, "|", str(record.label), record.annotator)
    return _digest(*_flat(record.messages))


def group_key(record: Record) -> bytes:
    """What must not be split: a document, or all that shares a prompt (its last answer and who ranked left out)."""
    if isinstance(record, Document):
        return _digest(record.text)
    if isinstance(record, Comparison | Labelled):
        return _digest(*_flat(record.prompt))
    asked = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
    messages = asked or record.messages  # an answer to nothing stands for itself
    return _digest(*_flat(messages))


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
