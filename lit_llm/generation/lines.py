"""The decoder's cache: keys and values of each row and head as one block of memory, written one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig

SMALL = 2**21
"""Numbers in a cache up to which float32 is faster on a CPU than bfloat16: batched products of few numbers have less to
set up in float32 (1 row, 6 heads of 64, 128 tokens: 15 us a layer against 45). Of many, both take about as long and
bfloat16 half the memory (32 rows, 6 heads of 64, 160 tokens: 1.0 ms a layer against 0.9)."""

STEP = {"cpu": 32}
"""Slots that are added at once. Batched bfloat16 products on a CPU copy what does not fill its memory, so the memory is
as large as what is looked at (the same layer from the first 160 of 256 slots: 2.0 ms). Elsewhere few distinct shapes
matter more."""


class Lines:
    """Slots for up to ``limit`` tokens in each of B rows; a token's slot is its index in its row.

    ``keys[layer]``, ``values[layer]``: (B * H_kv, capacity, head_dim), a row's heads side by side; ``capacity`` grows
    with the longest row. ``lengths``: (B,) int64, tokens held by each row, always the same tensor until rows are left
    out: what lies behind them is never seen.
    """

    def __init__(
        self, config: BackboneConfig, batch: int, limit: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.heads, self.width, self.limit, self.capacity = config.num_kv_heads, config.head_dim, limit, 0
        self.dtype, self.device = dtype, device
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.keys = [self._empty(0) for _ in range(config.num_layers)]
        self.values = [self._empty(0) for _ in self.keys]
        self._filled = 0  # no row holds more; known on the host, so that decoding never waits for the device

    def _empty(self, capacity: int) -> Tensor:
        lines = len(self.lengths) * self.heads
        return torch.zeros(lines, capacity, self.width, dtype=self.dtype, device=self.device)

    def make_room(self) -> None:
        """For one more token in every row. To be called before anything else of a step: it may move the memory."""
        if self.device.type == "cpu":  # elsewhere it would wait for the device
            self._filled = int(self.lengths.max())
        self._reserve(self._filled + 1)
        self._filled = min(self._filled + 1, self.limit)

    def places(self) -> tuple[Tensor, Tensor]:
        """Where each row's next token goes, for ``put``: its line and its slot there, (B * H_kv,) each."""
        slots = self.newest().repeat_interleave(self.heads)
        return torch.arange(len(slots), device=self.device), slots

    def newest(self) -> Tensor:
        """(B,): the slot of the token that each row gets next. A full row writes its last one again: it is done."""
        return self.lengths.clamp(max=self.limit - 1)

    def put(self, layer: int, places: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> None:
        """One token of every row: k and v (B, H_kv, head_dim)."""
        self.keys[layer][places] = k.flatten(0, 1).to(self.dtype)
        self.values[layer][places] = v.flatten(0, 1).to(self.dtype)

    def advance(self) -> None:
        """A token was put into every row."""
        self.lengths.add_(1).clamp_(max=self.limit)

    def fill(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Rows (R,) get k, v (R, H_kv, T, head_dim) from their first slot on; ``hold`` says how many count."""
        lines, length = self._lines(rows), k.shape[2]
        self._reserve(length)
        self.keys[layer][lines, :length] = k.flatten(0, 1).to(self.dtype)
        self.values[layer][lines, :length] = v.flatten(0, 1).to(self.dtype)

    def hold(self, rows: Tensor, lengths: Tensor) -> None:
        """Rows (R,) hold so many tokens (R,) now."""
        self.lengths.index_copy_(0, rows, lengths)
        self._filled = int(self.lengths.max())

    def forget(self, kept: Tensor) -> None:
        """Empties the rows that are not ``kept``, (B,) bool."""
        self.lengths.mul_(kept)

    def keep(self, rows: Tensor) -> None:
        """Leaves these rows alone, in this order, (R,) int64."""
        lines = self._lines(rows)
        self.lengths = self.lengths[rows]
        self._filled = int(self.lengths.max())
        self._resize(self._stepped(self._filled + 1), lines)

    def _lines(self, rows: Tensor) -> Tensor:
        return (rows[:, None] * self.heads + torch.arange(self.heads, device=rows.device)).flatten()

    def _stepped(self, slots: int) -> int:
        step = STEP.get(self.device.type, 256)
        return min(self.limit, -(-slots // step) * step)

    def _reserve(self, slots: int) -> None:
        if min(slots, self.limit) > self.capacity:
            self._resize(self._stepped(slots), slice(None))

    def _resize(self, capacity: int, lines: Tensor | slice) -> None:
        """Other memory for so many slots, with what these lines held in it."""
        held = min(capacity, self.capacity)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._empty(capacity)
                tensors[layer][:, :held] = old[lines, :held]
        self.capacity = capacity
