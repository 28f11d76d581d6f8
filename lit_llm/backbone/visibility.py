"""Who sees whom: the rule that every backend of ``attention.py`` computes, written once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def allowed_pairs(
    query_slots: Tensor,
    key_slots: Tensor,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Which key each query may see: its own and earlier ones, of its document, fewer than ``window`` tokens back.

    Slots: (B or 1, T) and (B or 1, S). Segments: (B, T) and (B, S). Returns (B or 1, T, S) bool.
    """
    distance = query_slots[:, :, None] - key_slots[:, None, :]
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    if query_segments is not None and key_segments is not None:
        allowed = allowed & (query_segments[:, :, None] == key_segments[:, None, :])
    return allowed


class PackedRows(NamedTuple):
    """Rows of several documents, each perhaps a prompt with completions that share it (``branches.py``)."""

    positions: Tensor  # (B or 1, T): count on in a document, and in every completion from its prompt's end
    segments: Tensor  # (B, T): the documents, ascending within a row
    branches: Tensor | None = None  # (B, T): 0 in a prompt, else which of its completions; None: there are none
    window: int | None = None

    def allowed(self, rows: slice, queries: slice, keys: slice) -> Tensor:
        """(rows, queries, keys) bool."""
        positions = self.positions.expand_as(self.segments)[rows]
        segments = self.segments[rows]
        seen = allowed_pairs(
            positions[:, queries], positions[:, keys], segments[:, queries], segments[:, keys], self.window
        )
        if self.branches is None:
            return seen
        branches = self.branches[rows]
        theirs = branches[:, None, keys]
        return seen & ((theirs == 0) | (theirs == branches[:, queries, None]))

    def starts(self) -> Tensor:
        """The first token that each query may see: (B, T), or an earlier one."""
        slots = torch.arange(self.segments.shape[1], device=self.segments.device)
        begins = torch.zeros_like(self.segments)
        begins[:, 1:] = (self.segments[:, 1:] != self.segments[:, :-1]) * slots[1:]
        starts = begins.cummax(dim=1).values
        if self.window is None or self.branches is not None:  # a prompt may stand far before its last completion
            return starts
        return torch.maximum(starts, slots - self.window + 1)

    def longest(self) -> int:
        """Tokens of the longest document; waits for the device."""
        documents = self._replace(window=None)
        return int((torch.arange(self.segments.shape[1]) - documents.starts().cpu()).max()) + 1
