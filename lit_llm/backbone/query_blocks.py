"""Attention of short rows in blocks of queries, each with the keys up to its last query, and its own backward pass.

What lies above the diagonal blocks is neither computed nor kept for the backward pass, which keeps the probabilities in
the queries' dtype. Products and softmax are torch's own: the kernel that the compiler makes of the mask and the softmax
takes 2.5 times as long, so compiled code calls it as one operator. Packed rows that are longer: ``packed_blocks.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class QueryBlock(NamedTuple):
    """Neighbouring queries of all rows, and the keys up to the last one that any of them sees."""

    queries: slice
    keys: slice  # from the first
    bias: Tensor  # (B or 1, 1, queries, keys): 0 where seen, -inf elsewhere, in the queries' dtype


def causal_blocks(bias: Tensor) -> list[QueryBlock]:
    """Four blocks of all rows under ``bias`` (B or 1, 1, T, T), which lets no query see later keys. Short rows have
    fewer: products of fewer than 32 queries cost more than what they save. By count and not by size, so that compiled
    code is the same for all longer rows. Long ones have eight in float32: 0.9 of the time with 1,024 tokens, AVX2."""
    length, blocks, first = bias.shape[-1], [], 0
    most = 8 if length > 256 and bias.itemsize > 2 else 4
    size = -(-length // (most if length > 128 else 2 if length > 64 else 1))
    while first < length:
        end = first + size if first + size < length else length
        part = bias[:, :, first:end, :end]
        blocks.append(QueryBlock(slice(first, end), slice(0, end), part))
        first = end
    return blocks


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[QueryBlock]) -> Tensor:
    """softmax(q k' / sqrt(head_dim) + bias) v, each query in exactly one of ``blocks``.

    q: (B, H, T, head_dim); k, v: (B, H_kv, T, head_dim). Returns (B, H, T, head_dim).
    """
    if not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        return forward(q.contiguous(), k.contiguous(), v.contiguous(), blocks, keep=False)[0]
    out: Tensor = _InBlocks.apply(q.contiguous(), k.contiguous(), v.contiguous(), blocks)  # type: ignore[no-untyped-call]
    return out


def attend_causally(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """``attend_in_blocks`` with ``causal_blocks(bias)``; in compiled code as one operator."""
    if not torch.compiler.is_compiling():
        return attend_in_blocks(q, k, v, causal_blocks(bias))
    return torch.ops.lit_llm.attend_causally(q.contiguous(), k.contiguous(), v.contiguous(), bias)[0]  # type: ignore[no-any-return]


def forward(q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[QueryBlock], keep: bool = True) -> tuple[Tensor, Tensor]:
    """The result, and all blocks' probabilities one after another, or but the room for the largest block's."""
    _, heads, _, width = q.shape
    kv_heads, out = k.shape[1], torch.empty_like(q)
    kept = q.new_empty(_kept(q, blocks) if keep else max(_kept(q, [block]) for block in blocks))
    for block, probabilities in zip(blocks, _split(kept, q, kv_heads, blocks, keep), strict=True):
        scores, queries = torch.empty_like(probabilities), block.bias.shape[2]
        scores.view(-1, kv_heads, heads // kv_heads, queries, scores.shape[2]).copy_(block.bias[:, :, None])
        scores.baddbmm_(_queries(q, block, kv_heads), _keys(k, block).mT, alpha=width**-0.5)
        torch.softmax(scores, dim=-1, out=probabilities)
        out[:, :, block.queries] = (probabilities @ _keys(v, block)).view(-1, heads, queries, width)
    return out, kept


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, blocks: Sequence[QueryBlock]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by q, k and v."""
    _, heads, _, width = q.shape
    kv_heads, scale = k.shape[1], width**-0.5
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for block, probabilities in zip(blocks, _split(kept, q, kv_heads, blocks), strict=True):
        out_grad = _queries(grad, block, kv_heads)
        seen_grad = out_grad @ _keys(v, block).mT
        scores_grad = torch._softmax_backward_data(seen_grad, probabilities, -1, probabilities.dtype)
        by_q = (scores_grad @ _keys(k, block)).view(-1, heads, block.bias.shape[2], width)
        torch.mul(by_q, scale, out=grad_q[:, :, block.queries])
        _keys(grad_k, block).baddbmm_(scores_grad.mT, _queries(q, block, kv_heads), alpha=scale)
        _keys(grad_v, block).baddbmm_(probabilities.mT, out_grad)
    return grad_q, grad_k, grad_v


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[QueryBlock]) -> Tensor:
        out, kept = forward(q, k, v, blocks)
        ctx.save_for_backward(q, k, v, kept)
        ctx.blocks = blocks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, kept = ctx.saved_tensors
        return *backward(grads[0].contiguous(), q, k, v, kept, ctx.blocks), None


def _kept(q: Tensor, blocks: Sequence[QueryBlock]) -> int:
    """How many probabilities there are in all blocks. Not by len(), which would compile anew for every batch size."""
    total = 0
    for block in blocks:
        total = total + q.shape[0] * q.shape[1] * block.bias.shape[2] * block.bias.shape[3]
    return total


def _split(kept: Tensor, q: Tensor, kv_heads: int, blocks: Sequence[QueryBlock], each: bool = True) -> Iterator[Tensor]:
    """Each block's probabilities, (rows * H_kv, H / H_kv * queries, keys), at a place of its own or at the same."""
    start = 0
    for block in blocks:
        rows, keys = q.shape[0], block.bias.shape[3]
        count = rows * q.shape[1] * block.bias.shape[2] * keys
        yield kept[start : start + count].view(rows * kv_heads, -1, keys)
        start += count if each else 0


def _queries(x: Tensor, block: QueryBlock, kv_heads: int) -> Tensor:
    """(rows * H_kv, H / H_kv * queries, head_dim): heads that share keys become rows of one product."""
    part = x[:, :, block.queries]
    if x.shape[1] == kv_heads:
        return part.flatten(0, 1)  # no copy
    return part.reshape(part.shape[0] * kv_heads, -1, x.shape[-1])


def _keys(x: Tensor, block: QueryBlock) -> Tensor:
    """(rows * H_kv, keys, head_dim), a view."""
    return x[:, :, block.keys].flatten(0, 1)


@torch.library.custom_op("lit_llm::attend_causally", mutates_args=())
def _operator(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return forward(q, k, v, causal_blocks(bias))


@torch.library.custom_op("lit_llm::attend_causally_backward", mutates_args=())
def _backward_operator(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return backward(grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), kept, causal_blocks(bias))


@_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(q), q.new_empty(_kept(q, causal_blocks(bias)))


@_backward_operator.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,  # noqa: ARG001
    kept: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *torch.ops.lit_llm.attend_causally_backward(grad, *ctx.saved_tensors), None


_operator.register_autograd(_differentiate, setup_context=_keep)
