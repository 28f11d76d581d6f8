"""Work on whole matrices whose rows lie in several processes, shared out: each process does some of the matrices.

Of n matrices of one shape over P processes each gets the rows of n / P, all at once, works on them, and sends each its
rows back: two exchanges of 1 / P of the numbers, where gathering all everywhere would send all of them and do all of
the work P times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lit_llm.runtime.shared_tensors import is_shared, local_part

Work = Callable[[Tensor], Tensor]
"""Of a stack of matrices (m, rows, columns), to one of the same shape."""


def on_whole_matrices(work: Work, parts: Sequence[Tensor], like: Sequence[Any]) -> list[Tensor]:
    """``work`` on matrices of one shape (rows, columns), and this process's part of each result.

    ``parts``: what this process has of them; ``like``: parameters that are laid out as they are. Matrices that are cut
    by rows over one dimension of their mesh are shared out among its processes; those that are cut in two ways, by
    tensor parallelism too, are gathered one by one and worked on by every process. Every process calls this alike.
    """
    first = like[0]
    if not is_shared(first):
        return list(work(torch.stack(list(parts))).unbind())
    cut = [dim for dim, placement in enumerate(first.placements) if not placement.is_replicate()]
    if len(cut) == 1 and first.placements[cut[0]].is_shard(0):
        group = first.device_mesh.get_group(cut[0])
        mine = _given(parts, first.shape[0], group)
        done = work(mine) if len(mine) else mine
        return _returned(done.to(parts[0].dtype), len(parts), first.shape[0], group)
    return [_gathered(work, part, each) for part, each in zip(parts, like, strict=True)]


def _gathered(work: Work, part: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    shape, stride = like.shape, like.stride()
    whole = DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)
    return local_part(work(whole.full_tensor()[None])[0], like).to(part.dtype)


def _given(parts: Sequence[Tensor], rows: int, group: Any) -> Tensor:
    """This process's matrices, whole: every P-th, (m, rows, columns)."""
    world, rank, columns = dist.get_world_size(group), dist.get_rank(group), parts[0].shape[1]
    many, heights = _many(len(parts), world), _heights(rows, world)
    sent = torch.cat([parts[n].reshape(-1) for turn in range(world) for n in range(turn, len(parts), world)])
    sizes = [many[rank] * height * columns for height in heights]
    got = sent.new_empty(sum(sizes))
    dist.all_to_all_single(got, sent, sizes, [number * heights[rank] * columns for number in many], group)
    pieces = zip(torch.split(got, sizes), heights, strict=True)
    return torch.cat([piece.view(many[rank], height, columns) for piece, height in pieces], dim=1)


def _returned(matrices: Tensor, count: int, rows: int, group: Any) -> list[Tensor]:
    """The way back: this process's rows of all ``count`` matrices."""
    world, rank, columns = dist.get_world_size(group), dist.get_rank(group), matrices.shape[-1]
    many, heights = _many(count, world), _heights(rows, world)
    sent = torch.cat([piece.reshape(-1) for piece in torch.split(matrices, heights, dim=1)])
    sizes = [number * heights[rank] * columns for number in many]
    got = sent.new_empty(sum(sizes))
    dist.all_to_all_single(got, sent, sizes, [many[rank] * height * columns for height in heights], group)
    found: list[Tensor] = [got] * count
    for turn, piece in enumerate(torch.split(got, sizes)):
        for n, matrix in zip(range(turn, count, world), piece.view(many[turn], heights[rank], columns), strict=True):
            found[n] = matrix
    return found


def _many(count: int, world: int) -> list[int]:
    """How many matrices each process works on."""
    return [len(range(turn, count, world)) for turn in range(world)]


def _heights(rows: int, world: int) -> list[int]:
    """How many rows of a matrix each process holds: as ``torch.chunk`` cuts them."""
    most = -(-rows // world)
    return [max(0, min(most, rows - turn * most)) for turn in range(world)]
