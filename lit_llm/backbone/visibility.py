"""Who sees whom: the rule that every backend of ``attention.py`` computes, written once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
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


def as_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where ``allowed``, -inf elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)


class PackedRows(NamedTuple):
    """Rows of several documents, each perhaps a prompt with completions that share it (``completions.py``)."""

    positions: Tensor  # (B or 1, T): count on in a document, and in every completion from its prompt's end
    segments: Tensor  # (B, T): the documents, ascending within a row
    branches: Tensor | None = None  # (B, T): 0 in a prompt, else which of its completions; None: there are none
    window: int | None = None

    def sees(self, keys: PackedRows) -> Tensor:
        """Which of the tokens ``keys`` (B, S), of the same documents, each of these may see: (B, T, S) bool."""
        seen = allowed_pairs(self.positions, keys.positions, self.segments, keys.segments, self.window)
        if self.branches is None or keys.branches is None:
            return seen
        theirs = keys.branches[:, None, :]
        return seen & ((theirs == 0) | (theirs == self.branches[:, :, None]))

    def blocks(self, size: int) -> PackedRows:
        """Every ``size`` tokens as a row of their own, the last ones of a row filled up by a document of their own."""
        missing = -self.segments.shape[1] % size

        def cut(part: Tensor, filling: int) -> Tensor:
            return F.pad(part, (0, missing), value=filling).reshape(-1, size)

        positions = cut(self.positions.expand_as(self.segments), 0)
        branches = None if self.branches is None else cut(self.branches, 0)
        return PackedRows(positions, cut(self.segments, -1), branches, self.window)

    def take(self, rows: Tensor) -> PackedRows:
        """The rows (n,), or several joined to each (n, m)."""
        branches = None if self.branches is None else self.branches[rows].flatten(1)
        return PackedRows(self.positions[rows].flatten(1), self.segments[rows].flatten(1), branches, self.window)

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
