"""PyTorch's flex attention: a block-sparse kernel made from the mask's rule, for packed or windowed rows on CUDA."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def flex_blocks(length: int, device: torch.device, segments: Tensor | None, window: int | None) -> Any:
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


def branched_blocks(positions: Tensor, segments: Tensor, branches: Tensor, window: int | None) -> Any:
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


def flex_kernel() -> Any:
    if torch.compiler.is_compiling():
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention
    return _compiled_flex()
