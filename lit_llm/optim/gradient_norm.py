"""The norm of all gradients of a step, wherever their parts lie, and their scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_llm.runtime.shared_tensors import is_shared, local, parts_of


def total_norm(gradients: Sequence[Tensor]) -> float:
    """The 2-norm of all numbers of these gradients, each counted once.

    Gradients that are shared out over processes, over whatever meshes, may stand beside whole ones, of which every
    process holds all: each process's squares count by one over the number of processes that hold the same. With shared
    ones every process calls this alike; without, nothing is sent: whole gradients are the same everywhere.
    """
    if not gradients:
        return 0.0
    if not any(map(is_shared, gradients)):
        return float(torch.nn.utils.get_total_norm(gradients))
    world = torch.distributed.get_world_size()
    shares = [1.0 / (world // parts_of(gradient)) for gradient in gradients]
    exact = torch.promote_types(gradients[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([local(gradient) for gradient in gradients], 2, dtype=exact))
    squares = (norms.double().square() * torch.tensor(shares, dtype=torch.float64, device=norms.device)).sum()
    torch.distributed.all_reduce(squares)
    return math.sqrt(float(squares))


def scale(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiplies gradients, in place, by a factor that all processes have."""
    if factor != 1.0 and gradients:
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
