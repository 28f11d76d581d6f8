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


class BatchKVCache:
    """Slots for up to ``limit`` tokens in each of B rows; a token's slot is its index in its row.

    ``memory[layer]``: (2, B * H_kv, capacity, head_dim), keys and values, a row's heads side by side; ``capacity``
    grows with the longest row. ``lengths``: (B,) int64, tokens held by each row, always the same tensor until rows are
    left out: what lies behind them is never seen. ``tokens``: keep the rows' tokens too, to read them again.
    """

    def __init__(
        self,
        config: BackboneConfig,
        batch: int,
        limit: int,
        dtype: torch.dtype,
        device: torch.device,
        tokens: bool = False,
    ) -> None:
        self.heads, self.width, self.limit, self.capacity = config.num_kv_heads, config.head_dim, limit, 0
        self.dtype, self.device = dtype, device
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.memory = [self._of(0) for _ in range(config.num_layers)]
        self._tokens = torch.zeros(batch, limit, dtype=torch.int64, device=device) if tokens else None
        self._filled = 0  # no row holds more; known on the host, so that decoding never waits for the device

    def _of(self, capacity: int) -> Tensor:
        lines = len(self.lengths) * self.heads
        return torch.empty(2, lines, capacity, self.width, dtype=self.dtype, device=self.device)

    def make_room(self) -> None:
        """For one more token in every row. To be called before anything else of a step: it may move the memory."""
        if self.device.type == "cpu":  # elsewhere it would wait for the device
            self._filled = int(self.lengths.max())
        self._reserve(self._filled + 1)
        self._filled = min(self._filled + 1, self.limit)

    def places(self) -> Tensor:
        """Where each row's next token goes, for ``put``: (B, 2 * H_kv) places of head_dim numbers each in a
        layer's memory."""
        rows, kinds = len(self.lengths), torch.arange(2, device=self.device)[:, None]
        lines = (kinds * rows * self.heads + torch.arange(self.heads, device=self.device)).flatten()
        lines = lines + self.heads * torch.arange(rows, device=self.device)[:, None]
        return lines * self.capacity + self.newest()[:, None]

    def newest(self) -> Tensor:
        """(B,): the slot of the token that each row gets next. A full row writes its last one again: it is done."""
        return self.lengths.clamp(max=self.limit - 1)

    def put(self, layer: int, places: Tensor, heads: Tensor) -> None:
        """One token of every row: its keys and values (B, 2 * H_kv, head_dim), in the cache's dtype."""
        self.memory[layer].view(-1, self.width)[places] = heads

    def keep_tokens(self, tokens: Tensor, slots: Tensor) -> None:
        """One token (B,) of every row, at its slot (B,); nothing where tokens are not kept."""
        if self._tokens is not None:
            self._tokens.scatter_(1, slots[:, None], tokens[:, None])

    def hold_tokens(self, rows: Tensor, tokens: Tensor) -> None:
        """Rows (R,) hold tokens (R, T) from their first slot on."""
        if self._tokens is not None:
            self._tokens[rows, : tokens.shape[1]] = tokens

    def tokens_of(self, rows: Tensor, count: int) -> Tensor:
        """The first ``count`` tokens of rows (R,): (R, count)."""
        assert self._tokens is not None
        return self._tokens[rows, :count]

    def advance(self) -> None:
        """A token was put into every row."""
        self.lengths.add_(1).clamp_(max=self.limit)

    def fill(self, layer: int, rows: Tensor, heads: Tensor) -> None:
        """Rows (R,) get keys and values (R, T, 2 * H_kv, head_dim) from their first slot on; ``hold`` says how many
        count."""
        lines, length = self._lines(rows), heads.shape[1]
        self._reserve(length)
        both = heads.to(self.dtype).view(len(rows), length, 2, self.heads, self.width).permute(2, 0, 3, 1, 4)
        self.memory[layer][:, lines, :length] = both.flatten(1, 2)

    def hold(self, rows: Tensor, lengths: Tensor) -> None:
        """Rows (R,) hold so many tokens (R,) now."""
        self.lengths.index_copy_(0, rows, lengths)
        self._filled = int(self.lengths.max())

    def forget(self, kept: Tensor) -> None:
        """Empties the rows that are not ``kept``, (B,) bool."""
        self.lengths.mul_(kept)

    def keep(self, rows: Tensor) -> None:
        """Leaves these rows alone, in this order, (R,) int64; a row may be taken more than once."""
        lines = self._lines(rows)
        self.lengths = self.lengths[rows]
        self._tokens = None if self._tokens is None else self._tokens[rows]
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
        for layer, old in enumerate(self.memory):
            self.memory[layer] = new = self._of(capacity)
            new[:, :, :held] = old[:, lines, :held]
            new[:, :, held:] = 0  # what attention gives no weight must still be a number
        self.capacity = capacity
