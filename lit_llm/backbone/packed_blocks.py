"""Attention of packed rows in blocks of queries, each with those blocks of keys alone that hold its documents.

All rows' blocks that look equally far back are one product, however many rows and documents there are. How far a block
looks is what its first query sees: that document's keys, and the rest of the block that it begins in. Products and
softmax are torch's own; the backward pass is written out, and keeps the probabilities in the queries' dtype. Compiled
code calls it as one operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_llm.backbone.visibility import PackedRows, as_bias

BLOCK = 64
"""Queries of a block, and keys. Products of fewer than 32 cost more than what they save."""


class BlockGroup(NamedTuple):
    """The blocks, numbered through all rows, whose first query's document begins equally many blocks before."""

    queries: Tensor  # (n,) int64
    keys: Tensor  # (n, reach) int64: for each of them the blocks of keys that it looks at, its own the last
    bias: Tensor  # (n, 1, BLOCK, reach * BLOCK): 0 where seen, -inf elsewhere, in the queries' dtype


def block_groups(packed: PackedRows, dtype: torch.dtype) -> list[BlockGroup]:
    """The blocks of rows (B, T), each filled up to whole ones."""
    blocks, starts = packed.blocks(BLOCK), packed.starts()[:, ::BLOCK] // BLOCK
    reach = (torch.arange(starts.shape[1], device=starts.device) - starts + 1).flatten()
    groups = []
    for count in sorted(set(reach.tolist())):
        queries = (reach == count).nonzero().flatten()
        keys = queries[:, None] + torch.arange(1 - count, 1, device=queries.device)
        seen = blocks.take(queries).sees(blocks.take(keys))
        groups.append(BlockGroup(queries, keys, as_bias(seen[:, None], dtype)))
    return groups


def attend_in_groups(q: Tensor, k: Tensor, v: Tensor, groups: Sequence[BlockGroup]) -> Tensor:
    """softmax(q k' / sqrt(head_dim) + bias) v with the groups of ``block_groups``.

    q: (B, H, T, head_dim); k, v: (B, H_kv, T, head_dim). Returns (B, H, T, head_dim).
    """
    if not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        return _forward(q, k, v, groups, keep=False)[0]
    out: Tensor = _InGroups.apply(q, k, v, groups)  # type: ignore[no-untyped-call]
    return out


def attend_packed(q: Tensor, k: Tensor, v: Tensor, packed: PackedRows) -> Tensor:
    """The same for compiled code, as one operator. How large the probabilities are depends on the batch, so that none
    are kept: the backward pass computes those of a group again when it comes to it."""
    return torch.ops.lit_llm.attend_packed(q, k, v, *packed)  # type: ignore[no-any-return]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[BlockGroup], keep: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """The result, and the probabilities of each group if they are to be kept."""
    queries, keys, values = _in_blocks(q), _in_blocks(k), _in_blocks(v)
    out, kept = torch.empty_like(queries), []
    for group in groups:
        probabilities = _probabilities(queries, keys, group)
        _put(out, group, probabilities @ _keys(values, group), len(keys))
        if keep:
            kept.append(probabilities)
    return _in_rows(out, q), kept


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, groups: Sequence[BlockGroup], kept: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by q, k and v; probabilities that were not kept are computed again, group by group."""
    queries, keys, values, grads = _in_blocks(q), _in_blocks(k), _in_blocks(v), _in_blocks(grad)
    by_q, by_k, by_v = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
    for number, group in enumerate(groups):
        probabilities = kept[number] if kept else _probabilities(queries, keys, group)
        out_grad, some = _queries(grads, group, len(keys)), _queries(queries, group, len(keys))
        seen_grad = out_grad @ _keys(values, group).mT
        scores_grad = torch._softmax_backward_data(seen_grad, probabilities, -1, probabilities.dtype)
        scores_grad *= q.shape[-1] ** -0.5
        _put(by_q, group, scores_grad @ _keys(keys, group), len(keys))
        _add(by_k, group, scores_grad.mT @ some)
        _add(by_v, group, probabilities.mT @ out_grad)
    return _in_rows(by_q, q), _in_rows(by_k, k), _in_rows(by_v, v)


def _probabilities(queries: Tensor, keys: Tensor, group: BlockGroup) -> Tensor:
    """(H_kv * n, H / H_kv * BLOCK, reach * BLOCK)."""
    count, _, size, reach = group.bias.shape
    scores = group.bias.new_empty(len(keys), count, len(queries) // len(keys), size, reach).copy_(group.bias)
    scores = scores.view(len(keys) * count, -1, reach)
    scores.baddbmm_(_queries(queries, group, len(keys)), _keys(keys, group).mT, alpha=queries.shape[-1] ** -0.5)
    return torch.softmax(scores, dim=-1, out=scores)


class _InGroups(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: Sequence[BlockGroup]) -> Tensor:
        out, kept = _forward(q, k, v, groups)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        return *_backward(grads[0], q, k, v, ctx.groups, kept), None


def _in_blocks(x: Tensor) -> Tensor:
    """(B, H, T, head_dim) as (H, B * blocks, BLOCK, head_dim), the last block of a row filled up with zeros."""
    missing = -x.shape[2] % BLOCK
    filled = F.pad(x, (0, 0, 0, missing)) if missing else x
    return filled.transpose(0, 1).reshape(x.shape[1], -1, BLOCK, x.shape[3])


def _in_rows(blocks: Tensor, like: Tensor) -> Tensor:
    """The way back, to the shape of ``like``."""
    rows, heads, length, width = like.shape
    return blocks.view(heads, rows, -1, width).transpose(0, 1)[:, :, :length].contiguous()


def _queries(blocks: Tensor, group: BlockGroup, kv_heads: int) -> Tensor:
    """(H_kv * n, H / H_kv * BLOCK, head_dim): heads that share keys become rows of one product."""
    some = blocks.index_select(1, group.queries)
    if len(some) != kv_heads:
        some = some.view(kv_heads, -1, *some.shape[1:]).transpose(1, 2)
    return some.reshape(kv_heads * len(group.queries), -1, blocks.shape[-1])


def _keys(blocks: Tensor, group: BlockGroup) -> Tensor:
    """(H_kv * n, reach * BLOCK, head_dim)."""
    return blocks.index_select(1, group.keys.flatten()).view(len(blocks) * len(group.keys), -1, blocks.shape[-1])


def _put(blocks: Tensor, group: BlockGroup, found: Tensor, kv_heads: int) -> None:
    """Writes (H_kv * n, H / H_kv * BLOCK, head_dim) where ``_queries`` reads them."""
    found = found.view(kv_heads, len(group.queries), -1, *blocks.shape[2:]).transpose(1, 2)
    blocks.index_copy_(1, group.queries, found.reshape(len(blocks), -1, *blocks.shape[2:]))


def _add(blocks: Tensor, group: BlockGroup, found: Tensor) -> None:
    """Adds (H_kv * n, reach * BLOCK, head_dim) where ``_keys`` reads them."""
    blocks.index_add_(1, group.keys.flatten(), found.view(len(blocks), -1, *blocks.shape[2:]))


@torch.library.custom_op("lit_llm::attend_packed", mutates_args=())
def _operator(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, segments: Tensor, branches: Tensor | None, window: int | None
) -> Tensor:
    return _forward(q, k, v, block_groups(PackedRows(positions, segments, branches, window), q.dtype), keep=False)[0]


@torch.library.custom_op("lit_llm::attend_packed_backward", mutates_args=())
def _backward_operator(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    segments: Tensor,
    branches: Tensor | None,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    groups = block_groups(PackedRows(positions, segments, branches, window), q.dtype)
    return _backward(grad, q, k, v, groups)


@_operator.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_backward_operator.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    plain = torch.contiguous_format
    return tuple(torch.empty_like(each, memory_format=plain) for each in (q, k, v))  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.lit_llm.attend_packed_backward(grad, *ctx.saved_tensors, ctx.window)
    return *grads, None, None, None, None


_operator.register_autograd(_differentiate, setup_context=_keep)
