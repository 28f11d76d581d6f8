"""What a data module makes of its files, and what is said of the records that it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_llm.data.filters import Record, content_key
from lit_llm.data.loading import Order, Rows
from lit_llm.data.reading import Records
from lit_llm.data.token_cache import content_hash
from lit_llm.records import Comparison, Heldout, Labelled

Kinds = Literal["documents", "responses", "rankings", "labels", "flags", "prompts"]


@dataclass(frozen=True)
class Prepared:
    """What a DataModule makes of its files."""

    train: Rows
    order: Order
    validation: Mapping[str, Rows]  # by source name, in the order of ``source_names``
    heldout: tuple[Heldout, ...]
    counts: Mapping[str, Any]
    content: str  # hash of the records
    train_tokens: int  # labels that an epoch trains
    remedies: Mapping[str, str] = field(default_factory=dict)  # what to change, by the reason why rows are dropped


def records_hash(records: Iterable[Record]) -> str:
    """SHA-256 of what the records say, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(content_key(record))
        if isinstance(record, Comparison | Labelled):
            digest.update(f"{record.weight!r}".encode())
    return digest.hexdigest()


def splits_hash(records: Records) -> str:
    """SHA-256 of all splits, with their names."""
    return content_hash(part for name in sorted(records.splits) for part in (name, records_hash(records[name])))


def tests_of(records: Records, name: str, kind: Kinds) -> list[Heldout]:
    """The test splits as held-out sets: ``test`` under the source's name, ``test_wordings`` as ``<name>_wordings``."""
    tests = {split: items for split, items in records.splits.items() if split.startswith("test") and items}
    return [Heldout(name + split.removeprefix("test"), kind, tuple(items)) for split, items in tests.items()]


def judged_by(records: Records) -> dict[str, int]:
    """How many judgements say of themselves that no person made them, and how many do not; what is 0 is left out."""
    every = [record.simulated for split in records.splits.values() for record in split]
    found = {"simulated": sum(every), "people": len(every) - sum(every)}
    return {name: number for name, number in found.items() if number}
