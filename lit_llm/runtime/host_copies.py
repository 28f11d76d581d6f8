"""Tensors of the host on their way to a device."""

from __future__ import annotations

import torch
from torch import Tensor

WAITING = ("cpu", "mps")
"""Kinds of device where a copy is waited for: to the host it must be over, and mps reads what may be freed by then."""


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device. What the host sends is not waited for: a copy from memory that is not pinned would be, and
    with it all that the device has yet to do."""
    if device.type in WAITING:
        return values.to(device)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
