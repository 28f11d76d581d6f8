"""The decoder's cache: keys and values of each row and head as one block of memory, written one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig

SMALL = 2**21
"""Numbers in a cache up to which float32 is faster on a CPU than bfloat16: batched products of few numbers have less to
set up in float32 (1 row, 6 heads of 64, 128 tokens: 15 us a layer against 45); of many, memory is what they wait for
(64 rows, 6 heads of 32, 100 tokens, not in the processor's cache: 0.87 ms a layer in bfloat16, 1.65 in float32)."""


class Lines:
    """Slots for ``capacity`` tokens in each of B rows; a token's slot is its index in its row.

    ``keys[layer]``, ``values[layer]``: (B * H_kv, capacity, head_dim), a row's heads side by side. Keys in half
    precision lie in memory transposed, as oneDNN's products want them (32 rows, 6 heads, 200 tokens: 0.65 ms, else
    1.00). ``lengths``: (B,) int64, tokens held by each row: what lies behind is never seen, and overwritten later.
    """

    def __init__(
        self, config: BackboneConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.heads, self.capacity = config.num_kv_heads, capacity
        lines, width = batch * self.heads, config.head_dim
        half = dtype in (torch.bfloat16, torch.float16)
        keys = (lines, width, capacity) if half else (lines, capacity, width)
        made = [torch.zeros(keys, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.keys = [each.transpose(1, 2) for each in made] if half else made
        self.values = [torch.zeros(lines, capacity, width, dtype=dtype, device=device) for _ in self.keys]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self._numbers = torch.arange(lines, device=device)
        self._filled = 0  # no row holds more; known on the host, so that decoding never waits for the device

    @property
    def batch(self) -> int:
        return self.lengths.shape[0]

    def slots(self) -> Tensor:
        """Where each row's next token goes: (B,). A full row writes its last one again: rows that are done run on."""
        return self.lengths.clamp(max=self.capacity - 1)

    def put(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """One token of every row: k and v (B, H_kv, head_dim) into ``slots`` (B,)."""
        places = slots.repeat_interleave(self.heads)
        for held, new in ((self.keys[layer], k), (self.values[layer], v)):
            held[self._numbers, places] = new.flatten(0, 1).to(held.dtype)

    def extents(self, size: int) -> list[int]:
        """For each ``size`` rows, how many slots attention has to look at once another token is appended to all."""
        if self.lengths.device.type != "cpu":  # would wait for the device
            return [min(self.capacity, self._filled + 1)] * -(-self.batch // size)
        return [min(self.capacity, int(part.max()) + 1) for part in torch.split(self.lengths, size)]

    def advance(self) -> None:
        """A token was put into every row."""
        self.lengths = (self.lengths + 1).clamp(max=self.capacity)
        self._filled = min(self._filled + 1, self.capacity)

    def fill(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Rows (R,) get k, v (R, H_kv, T, head_dim) from their first slot on; ``hold`` says how many count."""
        lines, length = self._lines(rows), k.shape[2]
        for held, new in ((self.keys[layer], k), (self.values[layer], v)):
            held[lines, :length] = new.flatten(0, 1).to(held.dtype)

    def hold(self, rows: Tensor, lengths: Tensor) -> None:
        """Rows (R,) hold so many tokens (R,) now."""
        self.lengths = self.lengths.clone()
        self.lengths[rows] = lengths
        self._filled = int(self.lengths.max())

    def forget(self, kept: Tensor) -> None:
        """Empties the rows that are not ``kept``, (B,) bool."""
        self.lengths = self.lengths * kept

    def keep(self, rows: Tensor) -> None:
        """Leaves these rows alone, in this order, (R,) int64."""
        lines = self._lines(rows)
        # A copy keeps the order in memory: it is gathered as it lies.
        self.keys = [_gathered(each, lines) for each in self.keys]
        self.values = [each[lines] for each in self.values]
        self.lengths = self.lengths[rows]
        self._numbers = self._numbers[: len(lines)]

    def _lines(self, rows: Tensor) -> Tensor:
        return (rows[:, None] * self.heads + torch.arange(self.heads, device=rows.device)).flatten()


def _gathered(keys: Tensor, lines: Tensor) -> Tensor:
    return keys[lines] if keys.is_contiguous() else keys.transpose(1, 2)[lines].transpose(1, 2)
