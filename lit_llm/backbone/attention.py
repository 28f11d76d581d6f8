"""One ``attend`` with several backends, and the mask that chooses among them, built once for all layers.

Who sees whom is written once, in ``visibility.py``; the backends are ways to compute it:

    explicit   softmax(QK' + bias) V with the scores in memory: what the others are held to; chosen for soft-capped
               scores alone, which no other one computes outside CUDA: rows x heads x length^2 numbers a layer
    blocks     the same without what lies above the diagonal (``query_blocks.py``: short rows on a CPU, in half
               precision or where AVX2 trains) or before a document (``packed_blocks.py``: packed rows of short
               documents there)
    sdpa       torch's fused kernel, causal or with a boolean mask: everything that no other backend takes
    documents  the fused kernel once per document of a packed row: packed rows of long documents on a CPU
    flex       block-sparse kernel generated from the mask's rule, in ``flex.py``: packed, windowed or soft-capped rows
               on CUDA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.backbone.flex import branched_blocks, flex_blocks, flex_kernel, softcap_rule
from lit_llm.backbone.packed_blocks import BlockGroup, attend_in_groups, attend_packed, block_groups
from lit_llm.backbone.query_blocks import attend_causally
from lit_llm.backbone.visibility import PackedRows, allowed_pairs, as_bias
from lit_llm.runtime import processor

Backend = Literal["explicit", "blocks", "sdpa", "documents", "flex"]

SHORT_ROW = 1024
"""Up to so many tokens a row on a CPU is short. Forward + backward of 2,048 tokens in rows of T, 6
heads of 64, one thread of an AVX512-BF16 core, torch 2.13, ms; * is what is chosen:

    T                    64     128    256    512    1024   2048
    bf16 blocks          11.0*  16.3*  18.4*  29.4*  49.8*  92.1
    bf16 explicit        10.3   17.0   22.6   39.3   77.9   143
    bf16 sdpa            44.2   60.6   44.8   77.4   93.4   163*
    fp32 blocks          23.1   32.6   34.4   55.1   97.5   206
    fp32 sdpa            19.6*  30.1*  38.0*  77.1*  108*   192*

The same with AVX2 alone (one thread of a shared core), where forward alone is sdpa's: 8.7 and 9.0 with T 128:

    fp32 blocks          17.1*  25.1*  39.3*  61.6*  106*   234
    fp32 sdpa            19.2   29.5   51.3   103    143    236*

Packed documents of 128, which begin where blocks do, on another day, * again; documents of 1,024 and 2,048 tokens in a
row of 2,048 behind them, whose probabilities are not kept where the documents are longer than a short row:

    packed T             256    512    1024   2048   1,024  2,048
    bf16 packed blocks   17.2   15.6*  17.2*  19.8*  75.9*  119
    bf16 blocks          23.3*  41.4   56.9   108    105    113
    bf16 documents       65.0   60.4   60.9   59.8   103    166*
    fp32 packed blocks   27.8*  30.4*  25.6*  23.4*  94.6*  197
    fp32 documents       37.5   42.3   41.3   37.2   115    188*
    fp32 sdpa            44.8   80.9   166    334    321    329

With AVX2 alone, 32 rows of 256, 4 heads of 64, documents of 64, 120 and 200 tokens on average: fp32 packed blocks 113,
110, 117; blocks 111*, 105*, 108*; sdpa 142, 142, 143.
"""


@dataclass(frozen=True)
class AttentionMask:
    """How the layers of one forward attend. Only the field that the backend reads is set; all None is plain causal."""

    backend: Backend
    bias: Tensor | None = None  # explicit, blocks of short rows: (B or 1, 1, T, S) 0 where seen, -inf elsewhere
    allowed: Tensor | None = None  # sdpa: (B or 1, 1, T, S) bool
    bounds: Tensor | None = None  # documents: (N, 3) int64 on the CPU: row, first token, one past the last
    window: int | None = None  # documents: the sliding window
    groups: Sequence[BlockGroup] = ()  # blocks, of packed rows
    packed: PackedRows | None = None  # blocks, of packed rows in compiled code: what groups are made of
    blocks: Any = None  # flex: BlockMask
    softcap: float | None = None  # explicit, flex: scores s become c tanh(s / c)


def build_mask(
    length: int,
    device: torch.device,
    dtype: torch.dtype,
    segments: Tensor | None = None,
    window: int | None = None,
    backend: Backend | None = None,
    compiled: bool = False,
    softcap: float | None = None,
) -> AttentionMask:
    """The mask of one forward over rows of ``length`` tokens.

    ``segments`` (B, T): documents of packed rows, ascending within a row. ``dtype`` is the queries'. ``backend`` forces
    one (the tests compare them). ``compiled``: the layers are. ``softcap``: c of scores that become c tanh(s / c).
    Whether gradients are wanted is torch's to say.
    """
    if window is not None and window >= length:
        window = None
    slots = torch.arange(length, device=device)[None]
    packed = None if segments is None else PackedRows(slots, segments, window=window)
    if backend is None and softcap is not None:
        backend = _capped_backend(device)
    if backend is None:
        backend = choose_backend(device, dtype, length, packed, window is not None, compiled)
    if backend == "flex":
        return AttentionMask("flex", blocks=flex_blocks(length, device, segments, window), softcap=softcap)
    if backend == "documents" and segments is not None:
        return AttentionMask("documents", bounds=document_bounds(segments, length), window=window)
    if backend == "blocks" and packed is not None and length > _packed_from(_reads_blocks(dtype), compiled):
        return _packed(packed, dtype, compiled)
    if backend == "sdpa" and segments is None and window is None:
        return AttentionMask("sdpa")
    return _dense(backend, allowed_pairs(slots, slots, segments, segments, window), dtype, softcap)


def branched_mask(
    positions: Tensor,
    segments: Tensor,
    branches: Tensor,
    dtype: torch.dtype,
    window: int | None = None,
    backend: Backend | None = None,
    compiled: bool = False,
    softcap: float | None = None,
) -> AttentionMask:
    """The mask of rows with completions behind prompts that they share (``completions.py``); all (B, T).

    Positions count from each prompt's first token and go on in every completion, so that they say what came before.
    """
    rows = PackedRows(positions, segments, branches, window)
    if backend is None and softcap is not None:
        backend = _capped_backend(segments.device)
    if backend is None:
        backend = _branched_backend(rows, compiled)
    if backend == "flex":
        blocks = branched_blocks(positions, segments, branches, window)
        return AttentionMask("flex", blocks=blocks, softcap=softcap)
    if backend == "blocks":
        return _packed(rows, dtype, compiled)
    return _dense(backend, rows.sees(rows), dtype, softcap)


def _packed(rows: PackedRows, dtype: torch.dtype, compiled: bool) -> AttentionMask:
    if compiled:  # how many blocks there are, and how wide, depends on the batch
        return AttentionMask("blocks", packed=rows)
    return AttentionMask("blocks", groups=block_groups(rows, dtype))


def _dense(backend: Backend, allowed: Tensor, dtype: torch.dtype, softcap: float | None = None) -> AttentionMask:
    """``allowed``: (B or 1, T, S) bool."""
    allowed = allowed[:, None]
    if backend == "sdpa":
        return AttentionMask("sdpa", allowed=allowed)
    return AttentionMask(backend, bias=as_bias(allowed, dtype), softcap=softcap)


def _capped_backend(device: torch.device) -> Backend:
    return "flex" if device.type == "cuda" else "explicit"


def choose_backend(
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    packed: PackedRows | None,
    windowed: bool,
    compiled: bool = False,
) -> Backend:
    """The backend for rows of ``length`` tokens, as measured: see ``SHORT_ROW``."""
    if device.type == "cuda" and (packed is not None or windowed):
        return "flex"
    if device.type != "cpu":
        return "sdpa"
    in_blocks = _reads_blocks(dtype)
    if packed is not None and length > _packed_from(in_blocks, compiled):
        return "blocks" if _are_short(packed, compiled) else "documents"
    if length > SHORT_ROW or not in_blocks:
        return "sdpa"
    return "blocks"


def _reads_blocks(dtype: torch.dtype) -> bool:
    """Whether blocks are faster than torch's kernel on short rows of a CPU: in half precision; in float32 with AVX2
    for the gradients' sake."""
    return dtype != torch.float32 or (processor.has_narrow_vectors() and torch.is_grad_enabled())


def _branched_backend(rows: PackedRows, compiled: bool) -> Backend:
    if rows.segments.is_cpu:
        return "blocks" if _are_short(rows, compiled) else "sdpa"
    # Flex skips blocks of 128 x 128: short rows have none to skip, and each new width is compiled.
    return "flex" if rows.segments.is_cuda and rows.segments.shape[1] > SHORT_ROW else "sdpa"


def _packed_from(in_blocks: bool, compiled: bool) -> int:
    """Packed rows above it are read by what their documents see. Compiled code, which computes every score twice then,
    later; where whole rows are read in blocks too: forward and backward in bfloat16 of 16 rows of 256, 4 layers, 3
    heads of 64, two threads, documents of 120 or 400 tokens on average that begin anywhere: as rows that are not packed
    in 0.89 and 0.93 of the time."""
    return 256 if in_blocks or compiled else 128


def _are_short(rows: PackedRows, compiled: bool) -> bool:
    """Whether the probabilities of all documents may be kept; compiled code keeps none."""
    return compiled or rows.segments.shape[1] <= SHORT_ROW or rows.longest() <= SHORT_ROW


def document_bounds(segments: Tensor, length: int) -> Tensor:
    """Where the documents of packed rows begin and end: (N, 3) int64, row, first token, one past the last."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    row, first = starts.nonzero(as_tuple=True)
    flat = row * length + first
    end = torch.cat([flat[1:], flat.new_tensor([segments.numel()])])
    return torch.stack([row, first, end - row * length], dim=1).cpu()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Scaled dot-product attention, scaled by 1/sqrt(head_dim).

    q: (B, H, T, head_dim); k, v: (B, H_kv, S, head_dim), H a multiple of H_kv. Returns (B, H, T, head_dim).
    """
    if mask.backend == "explicit":
        return _explicit(q, k, v, mask.bias, mask.softcap)
    if mask.backend == "blocks" and mask.packed is not None:
        return attend_packed(q, k, v, mask.packed)
    if mask.backend == "blocks":
        return attend_in_groups(q, k, v, mask.groups) if mask.bias is None else attend_causally(q, k, v, mask.bias)
    if mask.backend == "documents":
        out: Tensor = _per_document(q, k, v, mask.bounds, mask.window)
        return out
    grouped = q.shape[1] != k.shape[1]
    if mask.backend == "flex":
        cap = None if mask.softcap is None else softcap_rule(mask.softcap)
        out = flex_kernel()(q, k, v, score_mod=cap, block_mask=mask.blocks, enable_gqa=grouped)
        return out
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask.allowed, is_causal=mask.allowed is None, enable_gqa=grouped
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, softcap: float | None = None) -> Tensor:
    batch, heads, length, width = q.shape
    kv_heads, extent = k.shape[1], k.shape[2]
    # Query heads that share a key head become rows of one product: nothing is repeated.
    q = (q * width**-0.5).reshape(batch, kv_heads, -1, width)
    scores = (q @ k.transpose(-1, -2)).view(batch, kv_heads, heads // kv_heads, length, extent)
    if softcap is not None:  # in float32: tanh of a bfloat16 number has two digits
        scores = softcap * torch.tanh(scores.float() / softcap)
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
