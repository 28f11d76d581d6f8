"""Sums and their count, gathered over micro-batches and then over ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from lit_llm.runtime.distributed import peers
from lit_llm.runtime.host_copies import sent

Sums = Mapping[str, Tensor | float]
"""Sums over a batch by name: tensors () of the device, and numbers that the host knows anyway."""


class MetricSums:
    """Running sums, each where its values are, on the device or the host: adding never waits, only ``reduced`` does."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}  # of the host

    def add(self, loss: Tensor, count: Tensor | float, metrics: Sums) -> None:
        """Adds one micro-batch: the summed loss, the number of its items, and metrics summed over the same items."""
        for name, value in {"loss": loss, "count": count, **metrics}.items():
            if not isinstance(value, Tensor):
                self.numbers[name] = self.numbers.get(name, 0.0) + value
                continue
            # Kept in float64 (where there is one): a sum over a million tokens is exact to the last digit shown.
            value = value.detach().to(loss.device)
            value = value.to(torch.float32 if value.device.type == "mps" else torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def reduced(self) -> dict[str, float]:
        """The sums over all ranks as numbers, in one reduction and one wait for the device; then starts afresh."""
        if not self.sums:
            return {}
        names, known = sorted(self.sums), sorted(self.numbers)
        stacked = torch.stack([self.sums[name] for name in names])
        if known:
            numbers = torch.tensor([self.numbers[name] for name in known], dtype=stacked.dtype)
            stacked = torch.cat([stacked, sent(numbers, stacked.device)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(stacked)
            stacked /= peers()  # which have each counted the same rows
        self.sums, self.numbers = {}, {}
        return dict(zip([*names, *known], stacked.tolist(), strict=True))
