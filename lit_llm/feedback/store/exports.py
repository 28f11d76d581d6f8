"""What was exported when: filters, hash and counts, so that a data file can be told from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.tables import ExportRow


@dataclass(frozen=True)
class Export:
    id: int
    kind: str  # rankings, pairs, labels
    filters: dict[str, Any]
    hash: str  # SHA-256 of what was written
    counts: dict[str, Any]
    at: float  # seconds since 1970, UTC


def record_export(store: Store, kind: str, filters: Mapping[str, Any], hash: str, counts: Mapping[str, Any]) -> Export:
    """Notes an export that was made."""
    with store.write() as session:
        row = ExportRow(kind=kind, filters=dict(filters), hash=hash, counts=dict(counts), at=store.now())
        session.add(row)
        session.flush()
        return _export(row)


def exports(store: Store) -> list[Export]:
    """All of them, newest first."""
    with store.read() as session:
        return [_export(row) for row in session.scalars(select(ExportRow).order_by(ExportRow.id.desc()))]


def _export(row: ExportRow) -> Export:
    return Export(row.id, row.kind, row.filters, row.hash, row.counts, row.at)
