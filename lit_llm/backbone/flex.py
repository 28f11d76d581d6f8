"""PyTorch's flex attention: a block-sparse kernel made from the mask's rule, for packed or windowed rows on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention


def flex_blocks(length: int, device: torch.device, segments: Tensor | None, window: int | None) -> Any:
    def rule(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= key
        if window is not None:
            seen = seen & (query - key < window)
        if segments is not None:
            seen = seen & (segments[batch, query] == segments[batch, key])
        return seen

    rows = None if segments is None else segments.shape[0]
    return _blocks(rule, rows, length, device)


def branched_blocks(positions: Tensor, segments: Tensor, branches: Tensor, window: int | None) -> Any:
    def rule(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        ahead = positions[batch, query] - positions[batch, key]
        seen = (ahead >= 0) & (segments[batch, query] == segments[batch, key])
        if window is not None:
            seen = seen & (ahead < window)
        return seen & ((branches[batch, key] == 0) | (branches[batch, query] == branches[batch, key]))

    rows, length = positions.shape
    return _blocks(rule, rows, length, positions.device)


def _blocks(rule: Callable[..., Tensor], rows: int | None, length: int, device: torch.device) -> Any:
    # Uncompiled, the whole mask, rows x length x length, is in memory before its blocks are counted.
    make = flex_attention.create_block_mask if device.type != "cuda" else _compiled("create_block_mask")
    return make(rule, rows, None, length, length, device=device)


@cache
def softcap_rule(cap: float) -> Callable[..., Tensor]:
    """What the kernel makes of each score; the same function for the same number, so that it is compiled once."""

    def rule(score: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return rule


def flex_kernel() -> Any:
    return _compiled("flex_attention")  # uncompiled it would hold all scores in memory


def _compiled(name: str) -> Any:
    """Of ``torch.nn.attention.flex_attention``; as it is inside of code that is being compiled."""
    if torch.compiler.is_compiling():
        return getattr(flex_attention, name)
    return _compiled_alone(name)


@cache
def _compiled_alone(name: str) -> Any:
    return torch.compile(getattr(flex_attention, name))
