"""One ``attend`` with several backends, and the mask that chooses among them, built once for all layers.

Who sees whom is written once, in ``allowed_pairs``; the backends are ways to compute it:

    explicit   softmax(QK' + bias) V with the scores in memory: reading from a cache in half precision on a CPU
    blocks     the same without what lies above the diagonal, in ``query_blocks.py``: short rows in half precision on a
               CPU, and long packed ones whose documents are short
    sdpa       torch's fused kernel, causal or with a boolean mask: everything that no other backend takes
    documents  the fused kernel once per document of a packed row: other long packed rows on a CPU
    flex       block-sparse kernel generated from the mask's rule: packed or windowed rows on CUDA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.backbone.query_blocks import QueryBlock, attend_causally, attend_in_blocks, document_blocks

Backend = Literal["explicit", "blocks", "sdpa", "documents", "flex"]

SHORT_ROW = 1024
"""Up to so many tokens a row in half precision on a CPU is short. Forward + backward of 2,048 tokens in rows of T, 6
heads of 64, one thread of an AVX512-BF16 core, torch 2.13, ms; * is what is chosen:

    T                    64     128    256    512    1024   2048
    bf16 blocks          11.0*  16.3*  18.4*  29.4*  49.8*  92.1
    bf16 explicit        10.3   17.0   22.6   39.3   77.9   143
    bf16 sdpa            44.2   60.6   44.8   77.4   93.4   163*
    fp32 blocks          23.1   32.6   34.4   55.1   97.5   206
    fp32 sdpa            19.6*  30.1*  38.0*  77.1*  108*   192*

Packed documents of 128, T / 4 in shorter rows, on another day (bf16 blocks take what they take above):

    packed bf16 sdpa     39.8          51.5   89.3   145    326
    packed bf16 documents 187          72.5   64.7   70.0   61.5*
    packed fp32 sdpa     20.0*         46.5*  81.4*  171    361
    packed fp32 documents 143          63.0   45.6   47.5*  49.7*

Decoding one token of 32 rows, 12 query and 4 key heads, 512 slots: bf16 explicit 8.4, sdpa 22.9; fp32 5.2, 4.5.
"""


@dataclass(frozen=True)
class AttentionMask:
    """How the layers of one forward attend. Only the field that the backend reads is set; all None is plain causal."""

    backend: Backend
    bias: Tensor | None = (
        None  # explicit, blocks: (B or 1, 1, T, S) 0 where seen, -inf elsewhere, in the queries' dtype
    )
    allowed: Tensor | None = None  # sdpa: (B or 1, 1, T, S) bool
    bounds: Tensor | None = None  # documents: (N, 3) int64 on the CPU: row, first token, one past the last
    window: int | None = None  # documents: the sliding window
    queries: Sequence[QueryBlock] = ()  # blocks, of long packed rows
    blocks: Any = None  # flex: BlockMask


def allowed_pairs(
    query_slots: Tensor,
    key_slots: Tensor,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Which key each query may see: its own and earlier ones, of its document, fewer than ``window`` tokens back.

    Slots: (B or 1, T) and (B or 1, S). Segments: (B, T) and (B, S). Returns (B or 1, T, S) bool.
    """
    distance = query_slots[:, :, None] - key_slots[:, None, :]
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    if query_segments is not None and key_segments is not None:
        allowed = allowed & (query_segments[:, :, None] == key_segments[:, None, :])
    return allowed


def build_mask(
    length: int,
    device: torch.device,
    dtype: torch.dtype,
    segments: Tensor | None = None,
    window: int | None = None,
    cached_slots: Tensor | None = None,
    extent: int = 0,
    backend: Backend | None = None,
) -> AttentionMask:
    """The mask of one forward over rows of ``length`` tokens.

    ``segments`` (B, T): documents of packed rows, ascending within a row. ``cached_slots`` (B, T) and ``extent``: the
    tokens are appended to a cache and look at its first ``extent`` slots. ``dtype`` is the queries'. ``backend`` forces
    one (the tests compare them).
    """
    if window is not None and window >= max(length, extent):
        window = None
    forced = backend is not None
    if backend is None:
        backend = choose_backend(
            device, dtype, length, segments is not None, window is not None, cached_slots is not None
        )
    if backend == "flex":
        return AttentionMask("flex", blocks=_flex_blocks(length, device, segments, window))
    if segments is not None and (backend == "documents" or (backend == "blocks" and length > SHORT_ROW)):
        bounds = document_bounds(segments, length)
        short = int((bounds[:, 2] - bounds[:, 1]).max()) <= SHORT_ROW
        if backend == "blocks" or (not forced and short and dtype != torch.float32):
            return AttentionMask("blocks", queries=_packed_blocks(bounds, segments, dtype, window))
        return AttentionMask("documents", bounds=bounds, window=window)
    if backend == "sdpa" and segments is None and window is None and cached_slots is None:
        return AttentionMask("sdpa")
    slots = torch.arange(length, device=device)[None]
    if cached_slots is None:
        allowed = allowed_pairs(slots, slots, segments, segments, window)[:, None]
    else:
        allowed = allowed_pairs(cached_slots, torch.arange(extent, device=device)[None], window=window)[:, None]
    if backend == "sdpa":
        return AttentionMask("sdpa", allowed=allowed)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -torch.inf)
    return AttentionMask(backend, bias=bias)


def branched_mask(
    positions: Tensor,
    segments: Tensor,
    branches: Tensor,
    dtype: torch.dtype,
    window: int | None = None,
    backend: Backend | None = None,
) -> AttentionMask:
    """The mask of rows with completions behind prompts that they share (``branches.py``); all (B, T).

    Positions count from each prompt's first token and go on in every completion, so that they say what came before.
    """
    length, device = positions.shape[1], positions.device
    if backend is None:
        # Flex skips blocks of 128 x 128: short rows have none to skip, and each new width is compiled.
        flex = device.type == "cuda" and length > SHORT_ROW
        backend = (
            "flex"
            if flex
            else "sdpa"
            if device.type == "cuda"
            else choose_backend(device, dtype, length, False, True, False)
        )
    if backend == "flex":
        return AttentionMask("flex", blocks=_branched_blocks(positions, segments, branches, window))
    allowed = allowed_pairs(positions, positions, segments, segments, window)
    allowed &= (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    if backend == "sdpa":
        return AttentionMask("sdpa", allowed=allowed[:, None])
    bias = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -torch.inf)
    return AttentionMask(backend, bias=bias[:, None])


def choose_backend(
    device: torch.device, dtype: torch.dtype, length: int, packed: bool, windowed: bool, cached: bool
) -> Backend:
    """The backend for rows of ``length`` tokens, as measured: see ``SHORT_ROW``."""
    if device.type == "cpu":
        # Under compile the loop over documents would be unrolled anew for every batch.
        full = dtype == torch.float32
        if (
            packed
            and length > (SHORT_ROW // 2 if full else SHORT_ROW)
            and not cached
            and not torch.compiler.is_compiling()
        ):
            return "documents"
        if full or length > SHORT_ROW:
            return "sdpa"
        return "explicit" if cached else "blocks"
    if device.type == "cuda" and not cached and (packed or windowed):
        return "flex"
    return "sdpa"


def document_bounds(segments: Tensor | None, length: int) -> Tensor:
    """Where the documents of packed rows begin and end: (N, 3) int64, row, first token, one past the last."""
    if segments is None:
        raise ValueError("the documents backend needs segments")
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    row, first = starts.nonzero(as_tuple=True)
    flat = row * length + first
    end = torch.cat([flat[1:], flat.new_tensor([segments.numel()])])
    return torch.stack([row, first, end - row * length], dim=1).cpu()


def _packed_blocks(bounds: Tensor, segments: Tensor, dtype: torch.dtype, window: int | None) -> list[QueryBlock]:
    slots = torch.arange(segments.shape[1])[None]
    starts = torch.repeat_interleave(bounds[:, 1], bounds[:, 2] - bounds[:, 1]).view(segments.shape)
    if window is not None:
        starts = torch.maximum(starts, slots - window + 1)

    def allowed(row: int, queries: slice, keys: slice) -> Tensor:
        own = segments[row : row + 1]
        return allowed_pairs(slots[:, queries], slots[:, keys], own[:, queries], own[:, keys], window)[0]

    return document_blocks(allowed, starts, dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Scaled dot-product attention, scaled by 1/sqrt(head_dim).

    q: (B, H, T, head_dim); k, v: (B, H_kv, S, head_dim), H a multiple of H_kv. Returns (B, H, T, head_dim).
    """
    if mask.backend == "explicit":
        return _explicit(q, k, v, mask.bias)
    if mask.backend == "blocks":
        return attend_in_blocks(q, k, v, mask.queries) if mask.bias is None else attend_causally(q, k, v, mask.bias)
    if mask.backend == "documents":
        out: Tensor = _per_document(q, k, v, mask.bounds, mask.window)
        return out
    grouped = q.shape[1] != k.shape[1]
    if mask.backend == "flex":
        out = _flex_kernel()(q, k, v, block_mask=mask.blocks, enable_gqa=grouped)
        return out
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask.allowed, is_causal=mask.allowed is None, enable_gqa=grouped
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    batch, heads, length, width = q.shape
    kv_heads, extent = k.shape[1], k.shape[2]
    # Query heads that share a key head become rows of one product: nothing is repeated.
    q = (q * width**-0.5).reshape(batch, kv_heads, -1, width)
    scores = (q @ k.transpose(-1, -2)).view(batch, kv_heads, heads // kv_heads, length, extent)
    if bias is not None:
        scores = scores + bias[:, None]
    weights = torch.softmax(scores, dim=-1).to(v.dtype).view(batch, kv_heads, -1, extent)
    return (weights @ v).view(batch, heads, length, width)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _per_document(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, window: int | None) -> Tensor:
    if bounds is None:
        raise ValueError("the documents backend needs bounds")
    grouped = q.shape[1] != k.shape[1]
    rows: list[list[Tensor]] = [[] for _ in range(q.shape[0])]
    for row, first, end in bounds.tolist():
        part = (slice(row, row + 1), slice(None), slice(first, end))
        allowed = None
        if window is not None and window < end - first:
            slots = torch.arange(end - first, device=q.device)[None]
            allowed = allowed_pairs(slots, slots, window=window)[:, None]
        rows[row].append(
            F.scaled_dot_product_attention(
                q[part], k[part], v[part], attn_mask=allowed, is_causal=allowed is None, enable_gqa=grouped
            )
        )
    return torch.cat([torch.cat(parts, dim=2) for parts in rows])


def _flex_blocks(length: int, device: torch.device, segments: Tensor | None, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def rule(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if window is not None:
            seen = seen & (query - key < window)
        if segments is not None:
            seen = seen & (segments[batch, query] == segments[batch, key])
        return seen

    rows = None if segments is None else segments.shape[0]
    return create_block_mask(rule, rows, None, length, length, device=device)


def _branched_blocks(positions: Tensor, segments: Tensor, branches: Tensor, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def rule(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        ahead = positions[batch, query] - positions[batch, key]
        seen = (ahead >= 0) & (segments[batch, query] == segments[batch, key])
        if window is not None:
            seen = seen & (ahead < window)
        return seen & ((branches[batch, key] == 0) | (branches[batch, query] == branches[batch, key]))

    rows, length = positions.shape
    return create_block_mask(rule, rows, None, length, length, device=positions.device)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)  # uncompiled it would hold all scores in memory


def _flex_kernel() -> Any:
    if torch.compiler.is_compiling():
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention
    return _compiled_flex()
