"""Attention over causal rows in blocks of queries, each with those keys alone that come before its end.

What lies above the diagonal blocks is neither computed nor kept for the backward pass, which keeps the probabilities in
the queries' dtype. Products and softmax are torch's own: the kernel that the compiler makes of the mask and the softmax
takes 2.5 times as long, so compiled code calls this as one operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class QueryBlock(NamedTuple):
    """Queries ``first`` to ``end`` of every row; they see the keys up to ``end``, some of them by the bias."""

    first: int
    end: int


def query_blocks(length: int) -> Iterator[QueryBlock]:
    """Four blocks, but none of fewer than 64 queries: smaller products are slower than what they save."""
    size, first = (64 if length <= 256 else -(-length // 4)), 0
    while first < length:
        end = first + size if first + size < length else length
        yield QueryBlock(first, end)
        first = end


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' / sqrt(head_dim) + bias) v for a bias that lets no query see later keys.

    q: (B, H, T, head_dim); k, v: (B, H_kv, T, head_dim); bias: (B or 1, 1, T, T) in their dtype, 0 where seen, -inf
    elsewhere. Returns (B, H, T, head_dim).
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if torch.compiler.is_compiling():
        return torch.ops.lit_llm.attend_in_blocks(q, k, v, bias)[0]  # type: ignore[no-any-return]
    out: Tensor = _InBlocks.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
    return out


def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The result, and all blocks' probabilities one after another."""
    batch, heads, length, width = q.shape
    kv_heads, out = k.shape[1], torch.empty_like(q)
    kept = q.new_empty(_kept(q))
    for block, probabilities in zip(query_blocks(length), _split(kept, q, kv_heads), strict=True):
        first, end = block
        scores = torch.empty_like(probabilities)
        scores.view(batch, kv_heads, -1, end - first, end).copy_(bias[:, :, None, first:end, :end])
        scores.baddbmm_(_queries(q, block, kv_heads), _keys(k, block).mT, alpha=width**-0.5)
        torch.softmax(scores, dim=-1, out=probabilities)
        out[:, :, first:end] = (probabilities @ _keys(v, block)).view(batch, heads, -1, width)
    return out, kept


def backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by q, k and v."""
    batch, heads, length, width = q.shape
    kv_heads, scale = k.shape[1], width**-0.5
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for block, probabilities in zip(query_blocks(length), _split(kept, q, kv_heads), strict=True):
        out_grad = _queries(grad, block, kv_heads)
        seen_grad = out_grad @ _keys(v, block).mT
        scores_grad = torch._softmax_backward_data(seen_grad, probabilities, -1, probabilities.dtype)
        by_q = (scores_grad @ _keys(k, block)).view(batch, heads, -1, width)
        torch.mul(by_q, scale, out=grad_q[:, :, block.first : block.end])
        _keys(grad_k, block).baddbmm_(scores_grad.mT, _queries(q, block, kv_heads), alpha=scale)
        _keys(grad_v, block).baddbmm_(probabilities.mT, out_grad)
    return grad_q, grad_k, grad_v


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out, kept = forward(q, k, v, bias)
        ctx.save_for_backward(q, k, v, kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *backward(grads[0].contiguous(), *ctx.saved_tensors), None


def _kept(q: Tensor) -> int:
    """How many probabilities there are in all blocks."""
    batch, heads, length, _ = q.shape
    total = 0
    for first, end in query_blocks(length):
        total = total + (end - first) * end
    return batch * heads * total


def _split(kept: Tensor, q: Tensor, kv_heads: int) -> Iterator[Tensor]:
    """Each block's probabilities, (B * H_kv, H / H_kv * queries, keys)."""
    batch, heads, length, _ = q.shape
    start = 0
    for first, end in query_blocks(length):
        count = batch * heads * (end - first) * end
        yield kept[start : start + count].view(batch * kv_heads, -1, end)
        start += count


def _queries(x: Tensor, block: QueryBlock, kv_heads: int) -> Tensor:
    """(B * H_kv, H / H_kv * queries, head_dim): heads that share keys become rows of one product."""
    part = x[:, :, block.first : block.end]
    if x.shape[1] == kv_heads:
        return part.flatten(0, 1)  # no copy
    return part.reshape(len(x) * kv_heads, -1, x.shape[-1])


def _keys(x: Tensor, block: QueryBlock) -> Tensor:
    """(B * H_kv, keys, head_dim), a view."""
    return x[:, :, : block.end].flatten(0, 1)


@torch.library.custom_op("lit_llm::attend_in_blocks", mutates_args=())
def _operator(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return forward(q, k, v, bias)


@torch.library.custom_op("lit_llm::attend_in_blocks_backward", mutates_args=())
def _backward_operator(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return backward(grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), kept)


@_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(q), q.new_empty(_kept(q))


@_backward_operator.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *torch.ops.lit_llm.attend_in_blocks_backward(grad, *ctx.saved_tensors), None


_operator.register_autograd(_differentiate, setup_context=_keep)
