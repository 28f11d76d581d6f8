"""Keys and values of what was read so far, in static slots, so that generation never computes them twice."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig

EXTENT_STEP = 64  # attention looks at a multiple of so many slots: few distinct shapes, little waste


class KVCache:
    """Slots for ``capacity`` tokens in each of B rows.

    ``keys[layer]``, ``values[layer]``: (B, H_kv, capacity, head_dim). ``lengths``: (B,) int64, tokens held by each row.
    A token's slot is its index in its row, so rows of unlike lengths need no padding on the left: what a right-padded
    prefill leaves behind a row's length is never seen and is overwritten by the tokens that follow.
    """

    def __init__(
        self,
        config: BackboneConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self._rows = torch.arange(batch, device=device)[:, None]
        self._filled = 0  # no row holds more; known on the host, so that decoding never waits for the device

    @property
    def batch(self) -> int:
        return self.lengths.shape[0]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def slots(self, count: int) -> Tensor:
        """The slots that each row's next ``count`` tokens take: (B, count) int64.

        Raises ValueError if several tokens do not fit. A single one is not checked (that would wait for the device):
        a full row overwrites its last slot, so let rows that are done run on, and size the cache for those that count.
        """
        if count > 1:
            self._filled = int(self.lengths.max())
            if self._filled + count > self.capacity:
                raise ValueError(f"{self._filled} + {count} tokens do not fit a cache of {self.capacity}")
        slots = self.lengths[:, None] + torch.arange(count, device=self.lengths.device)
        return slots.clamp(max=self.capacity - 1)

    def extent(self, count: int) -> int:
        """How many slots attention has to look at when ``count`` tokens are appended."""
        needed = -(-(self._filled + count) // EXTENT_STEP) * EXTENT_STEP
        return min(self.capacity, needed)

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        """Put k, v (B, H_kv, T, head_dim) into ``slots``; return the layer's keys and values up to ``extent``."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self._rows, :, slots] = k.transpose(1, 2).to(keys.dtype)
        values[self._rows, :, slots] = v.transpose(1, 2).to(values.dtype)
        return keys[:, :, :extent], values[:, :, :extent]

    def advance(self, count: int, lengths: Tensor | None = None) -> None:
        """``count`` tokens were written to every row, of which ``lengths`` (B,) are no padding (None: all)."""
        self.lengths = (self.lengths + (count if lengths is None else lengths)).clamp(max=self.capacity)
        self._filled = min(self._filled + count, self.capacity)

    def select(self, rows: Tensor) -> KVCache:
        """A cache of these rows alone, in this order, (R,) int64; a row may be taken more than once."""
        chosen = object.__new__(KVCache)
        chosen.keys = [k[rows] for k in self.keys]
        chosen.values = [v[rows] for v in self.values]
        chosen.lengths = self.lengths[rows]
        chosen._rows = torch.arange(len(chosen.lengths), device=rows.device)[:, None]
        chosen._filled = self._filled
        return chosen
