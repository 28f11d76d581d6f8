"""Packing: which piece of which document lies in which row, and the row's arrays.

Labels are shifted and masked here and nowhere else. A document of n tokens fills n - 1 positions: position t holds
token t and its label is token t + 1, so its last token is a label and never an input, and its first an input and never
a label. A *plan* is made from the documents' numbers of positions alone; the rows are filled from the token cache when
they are read.

Two plans keep documents whole or not:

* ``best_fit_decreasing`` for examples: no document is cut, each goes to the fullest row that still holds it
  (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", algorithm 1);
* ``concatenate_and_split`` for raw text: the documents end to end, cut every ``capacity`` positions.

Whatever the plan, positions restart with every piece and attention never leaves it (``segments``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.records import IGNORE, TokenBatch

IntArray = NDArray[np.int64]


class TokenizedDocuments(Protocol):
    """What the rows are filled from: the token cache, or any list of tokens and of what is trained."""

    def tokens(self, document: int, start: int, stop: int) -> NDArray[Any]:
        """Tokens ``start`` to ``stop`` of a document, (stop - start,) integers."""

    def trained(self, document: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each of these tokens is trained when it is a label, (stop - start,) bool."""


@dataclass(frozen=True)
class Plan:
    """Pieces in the order of the rows. Lengths and starts are in positions."""

    document: IntArray  # (pieces,): the document a piece belongs to
    start: IntArray  # (pieces,): its first position within the document
    length: IntArray  # (pieces,)
    row_bounds: IntArray  # (rows + 1,): row i holds the pieces row_bounds[i] to row_bounds[i + 1]
    capacity: int

    @property
    def num_rows(self) -> int:
        return len(self.row_bounds) - 1

    @property
    def efficiency(self) -> float:
        """Share of the rows' positions that hold a token; the rest is padding."""
        return float(self.length.sum()) / max(1, self.num_rows * self.capacity)


def best_fit_decreasing(positions: Sequence[int] | IntArray, capacity: int) -> Plan:
    """Packs whole documents, the longest first, each into the fullest row that still has room for it.

    Documents without a position are left out. Raises ValueError for one longer than ``capacity``: the caller drops or
    truncates those, and counts them.
    """
    lengths = np.asarray(positions, dtype=np.int64)
    if lengths.size and int(lengths.max()) > capacity:
        raise ValueError(f"a document of {int(lengths.max())} positions does not fit in a row of {capacity}")
    rows: list[list[int]] = []
    rows_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while some row has exactly r free positions: finding the tightest fit is one bit scan
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        if length == 0:
            continue
        fitting = rooms >> length
        if fitting:
            room = length + ((fitting & -fitting).bit_length() - 1)
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(document)
        rows_with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return _whole_documents(rows, lengths, capacity)


def one_per_row(positions: Sequence[int] | IntArray, capacity: int) -> Plan:
    """No packing: every document with a position gets a row of its own. Raises ValueError like best_fit_decreasing."""
    lengths = np.asarray(positions, dtype=np.int64)
    if lengths.size and int(lengths.max()) > capacity:
        raise ValueError(f"a document of {int(lengths.max())} positions does not fit in a row of {capacity}")
    return _whole_documents([[i] for i in np.flatnonzero(lengths).tolist()], lengths, capacity)


def _whole_documents(rows: list[list[int]], lengths: IntArray, capacity: int) -> Plan:
    documents = np.array([document for row in rows for document in row], dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    return Plan(documents, np.zeros_like(documents), lengths[documents], bounds, capacity)


def concatenate_and_split(positions: Sequence[int] | IntArray, capacity: int) -> Plan:
    """Lays the documents end to end and cuts a row every ``capacity`` positions; the last row may be shorter.

    A document that is cut goes on in the next row as a segment of its own: its positions restart, and its first label
    there is the token after the one the row before ended with, so that no label is lost at the cut.
    """
    lengths = np.asarray(positions, dtype=np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if lengths.size else 0
    bounds = np.unique(np.concatenate([[0, total], ends, np.arange(0, total, capacity)]).astype(np.int64))
    starts = bounds[:-1]
    document = np.searchsorted(ends, starts, side="right").astype(np.int64)
    start_in_document = starts - (ends - lengths)[document] if total else starts
    num_rows = -(-total // capacity)
    row_bounds = np.searchsorted(starts, np.arange(num_rows + 1) * capacity).astype(np.int64)
    return Plan(document, start_in_document, np.diff(bounds), row_bounds, capacity)


class PackedRows(torch.utils.data.Dataset[TokenBatch]):
    """The rows of a plan, as a map-style data set: item i is a TokenBatch without its batch dimension, (T,) each.

    ``trim`` (for rows that hold one document) cuts a batch's columns that are padding in all of its rows.
    """

    def __init__(
        self, documents: TokenizedDocuments, plan: Plan, *, pad_id: int, source: int = 0, trim: bool = False
    ) -> None:
        self.documents, self.plan = documents, plan
        self.pad_id, self.source, self.trim = pad_id, source, trim

    @property
    def num_positions(self) -> int:
        """Positions that hold a token: labels that an epoch trains, where all are trained."""
        return int(self.plan.length.sum())

    def __len__(self) -> int:
        return self.plan.num_rows

    def __getitem__(self, row: int) -> TokenBatch:
        plan, width = self.plan, self.plan.capacity
        input_ids = np.full(width, self.pad_id, dtype=np.int64)
        labels = np.full(width, IGNORE, dtype=np.int64)
        positions = np.zeros(width, dtype=np.int64)
        segments = np.zeros(width, dtype=np.int64)
        first, last = int(plan.row_bounds[row]), int(plan.row_bounds[row + 1])
        at = 0
        for segment, piece in enumerate(range(first, last)):
            document, start, length = int(plan.document[piece]), int(plan.start[piece]), int(plan.length[piece])
            ids = np.asarray(self.documents.tokens(document, start, start + length + 1), dtype=np.int64)
            trained = self.documents.trained(document, start + 1, start + length + 1)
            here = slice(at, at + length)
            input_ids[here] = ids[:-1]
            labels[here] = np.where(trained, ids[1:], IGNORE)
            positions[here] = np.arange(length)
            segments[here] = segment
            at += length
        positions[at:] = np.arange(width - at)  # the padding is a segment of its own
        segments[at:] = last - first
        return self._row(input_ids, labels, positions, segments)

    def blank(self) -> TokenBatch:
        """A row of padding without a label: what a rank gets when fewer rows than ranks are left."""
        width = self.plan.capacity
        padding = np.full(width, self.pad_id, dtype=np.int64)
        return self._row(padding, np.full(width, IGNORE), np.arange(width), np.zeros(width, dtype=np.int64))

    def _row(self, *arrays: NDArray[Any]) -> TokenBatch:
        source = np.full(self.plan.capacity, self.source, dtype=np.int64)
        return TokenBatch(*(torch.from_numpy(array.astype(np.int64, copy=False)) for array in (*arrays, source)))

    def collate(self, rows: Sequence[TokenBatch]) -> TokenBatch:
        """Stacks rows to a TokenBatch, (B, T) each."""
        batch = TokenBatch(*(torch.stack(tensors) for tensors in zip(*rows, strict=True)))
        if not self.trim:
            return batch
        has_document = (batch.labels != IGNORE).any(dim=1)  # a blank row is one long segment
        used = max(1, int(((batch.segments == 0).sum(dim=1) * has_document).max()))
        return TokenBatch(*(tensor[:, :used].contiguous() for tensor in batch))


def trained_labels(documents: TokenizedDocuments, plan: Plan) -> IntArray:
    """Every label that a plan trains, in the order of its pieces, (labels,): what one epoch learns from."""
    pieces = [
        documents.tokens(int(d), int(s) + 1, int(s + n) + 1)[documents.trained(int(d), int(s) + 1, int(s + n) + 1)]
        for d, s, n in zip(plan.document, plan.start, plan.length, strict=True)
    ]
    return np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, dtype=np.int64)
