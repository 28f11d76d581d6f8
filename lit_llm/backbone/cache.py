"""Keys and values of what was read so far, in static slots, so that generation never computes them twice."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig

EXTENT_STEP = 64  # attention looks at a multiple of so many slots: few distinct shapes, little waste


class KVCache:
    """Slots for ``capacity`` tokens in each of B rows, which are read and written together.

    ``keys[layer]``, ``values[layer]``: (B, H_kv, capacity, head_dim). ``length``: tokens that every row holds; a
    token's slot is its index in its row.
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
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def slots(self, count: int) -> Tensor:
        """The slots that every row's next ``count`` tokens take: (1, count) int64. Raises ValueError if they do not
        fit."""
        if self.length + count > self.capacity:
            raise ValueError(f"{self.length} + {count} tokens do not fit a cache of {self.capacity}")
        return torch.arange(self.length, self.length + count, device=self.keys[0].device)[None]

    def extent(self, count: int) -> int:
        """How many slots attention has to look at when ``count`` tokens are appended."""
        needed = -(-(self.length + count) // EXTENT_STEP) * EXTENT_STEP
        return min(self.capacity, needed)

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        """Put k, v (B, H_kv, T, head_dim) into ``slots``; return the layer's keys and values up to ``extent``."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, slots[0]] = k.to(keys.dtype)
        values[:, :, slots[0]] = v.to(values.dtype)
        return keys[:, :, :extent], values[:, :, :extent]

    def advance(self, count: int) -> None:
        """``count`` tokens were written to every row."""
        self.length += count

    def select(self, rows: Tensor) -> KVCache:
        """A cache of these rows alone, in this order, (R,) int64; a row may be taken more than once."""
        chosen = object.__new__(KVCache)
        chosen.keys = [k[rows] for k in self.keys]
        chosen.values = [v[rows] for v in self.values]
        chosen.length = self.length
        return chosen
