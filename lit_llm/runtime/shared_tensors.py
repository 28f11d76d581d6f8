"""Tensors that are shared out over processes (DTensors): this process's part, and the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie in several processes. Asks for nothing to be imported where none do."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a shared tensor; another one as it is."""
    shared: Any = tensor
    part: Tensor = shared.to_local() if is_shared(tensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, detached, in every process. Every process calls this alike."""
    shared: Any = tensor.detach()
    found: Tensor = shared.full_tensor() if is_shared(tensor) else shared
    return found


def local_part(tensor: Tensor, like: Any) -> Tensor:
    """What this process holds of a whole ``tensor``, where ``like`` is a shared one of that shape: a view.

    One that is cut by tensor and by data parallelism is cut by the first, the last dimension of its mesh, first.
    """
    part, mesh = tensor, like.device_mesh
    for dim in reversed(range(mesh.ndim)):
        placement = like.placements[dim]
        if not placement.is_replicate():
            part = _chunk(part, mesh.size(dim), mesh.get_local_rank(dim), placement.dim)
    return part


def shared_as(tensor: Tensor, like: Any) -> Tensor:
    """A whole ``tensor``, which every process has, as one of ``like``'s kind: shared out as that is, on its device, in
    its own type. Nothing is sent. As it is where it is shared already, or ``like`` is not."""
    if like is None or not is_shared(like) or is_shared(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    # Fused optimizers read a moment in the order of its weight, whatever the strides of a view of columns say.
    part = local_part(tensor, like).to(like.device).contiguous()
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def fill(tensor: Tensor, numbers: Tensor) -> None:
    """Writes whole ``numbers`` over a tensor; of a shared one this process's part. For code without gradients."""
    if is_shared(tensor):
        local(tensor).copy_(local_part(numbers, tensor))
    else:
        tensor.copy_(numbers)


def parts_of(tensor: Any) -> int:
    """In how many parts a tensor is cut; the other processes hold the same ones again."""
    found = 1
    for dim, placement in enumerate(tensor.placements if is_shared(tensor) else ()):
        found *= 1 if placement.is_replicate() else tensor.device_mesh.size(dim)
    return found


def _chunk(tensor: Tensor, parts: int, number: int, dim: int) -> Tensor:
    chunks = torch.chunk(tensor, parts, dim)
    return chunks[number] if number < len(chunks) else tensor.narrow(dim, 0, 0)
