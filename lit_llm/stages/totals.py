"""Sums and their count, gathered over micro-batches and then over ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Totals:
    """Running sums on the device: adding never waits for it, only ``reduced`` does."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, count: Tensor, metrics: dict[str, Tensor]) -> None:
        """Adds one micro-batch: the summed loss, the number of its items, and metrics summed over the same items."""
        for name, value in {"loss": loss, "count": count, **metrics}.items():
            # Kept in float64 (where there is one): a sum over a million tokens is exact to the last digit shown.
            value = torch.as_tensor(value, device=loss.device).detach()
            value = value.to(torch.float32 if value.device.type == "mps" else torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def reduced(self) -> dict[str, float]:
        """The sums over all ranks as numbers, in one reduction and one wait for the device; then starts afresh."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        stacked = torch.stack([self.sums[name] for name in names])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(stacked)
        self.sums = {}
        return dict(zip(names, stacked.tolist(), strict=True))
