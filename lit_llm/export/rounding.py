"""How far rounding may move a model: the bounds that a certificate holds an exported file to.

Weights: a block of 32 is kept as whole numbers of one step, so that none is off by more than the step allows.
Activations: llama.cpp multiplies by them in 16 bits where the weights have 16, and in 8 bits (blocks of 32, one scale)
where they have fewer. The same is done here, in float32 arithmetic, and how far it moves the logits is the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lit_llm.backbone.blocks import ACTIVATIONS
from lit_llm.backbone.models import LanguageModel
from lit_llm.export.gguf_file import BLOCK

_HALF, _BRAIN = 2.0**-11, 2.0**-8  # relative rounding of float16 and (twice, to be sure of ties) of bfloat16
_GELU = (ACTIVATIONS["gelu"], ACTIVATIONS["gelu_tanh"])
_SMALLEST = 2.0**-24  # float16's step below its normal range
_LEVELS = {"Q4_1": 15, "Q5_1": 31}  # between a block's least and largest weight
_ROUTER = ".mlp.gate"  # of a mixture of experts: its weights stay float32
_SIGNED = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}  # steps from zero to a block's largest weight


def weight_limits(weights: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """How far each weight (rows, columns) may be off when it is kept as ggml's ``kind``, of the same shape."""
    size = np.abs(weights.astype(np.float64))
    if kind == "F32":
        return np.zeros_like(size)
    if kind in ("F16", "BF16"):
        return size * (_HALF if kind == "F16" else _BRAIN) + _SMALLEST
    blocks = weights.astype(np.float64).reshape(*weights.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(-1, keepdims=True)
    if kind in _SIGNED:
        step = largest / _SIGNED[kind]
        # With 4 and 5 bits there is one level less on the other side of zero: a weight there may be a whole step off.
        limit = step * (0.5 if kind == "Q8_0" else 1.0) + largest * _HALF * 1.1 + _SMALLEST * _SIGNED[kind]
    else:
        spread = blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)
        step = spread / _LEVELS[kind]
        limit = step / 2 + (spread + largest) * _HALF * 1.1 + _SMALLEST * (_LEVELS[kind] + 1)
    return np.broadcast_to(limit, blocks.shape).reshape(weights.shape)


def rounded_activations(kind: str) -> Callable[[Tensor], Tensor] | None:
    """What llama.cpp makes of a matrix product's input (..., D) beside weights of this kind; None: nothing."""
    if kind == "F32":
        return None
    if kind in ("F16", "BF16"):
        dtype = torch.float16 if kind == "F16" else torch.bfloat16
        return lambda x: x.to(dtype).to(x.dtype)
    return _eight_bits


def _eight_bits(x: Tensor) -> Tensor:
    if x.shape[-1] % BLOCK:
        return x.to(torch.float16).to(x.dtype)
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    step = blocks.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(step > 0, blocks / step, torch.zeros_like(blocks)).round()
    found: Tensor = (whole * step.to(torch.float16).to(x.dtype)).flatten(-2)
    return found


@contextmanager
def as_llama_cpp(model: LanguageModel, kind: str) -> Iterator[None]:
    """Within the block every matrix product of the model rounds its input as llama.cpp does, and so does GELU."""
    rounded = rounded_activations(kind)
    every = [] if rounded is None else model.named_modules()
    layers = [layer for name, layer in every if isinstance(layer, nn.Linear) and not name.endswith(_ROUTER)]
    handles = [layer.register_forward_pre_hook(lambda _, given: (rounded(given[0]),)) for layer in layers]  # type: ignore[misc]
    blocks = [block for block in model.modules() if getattr(block, "activation", None) in _GELU]
    kept = [block.activation for block in blocks]
    for block in blocks:
        block.activation = _table_gelu  # type: ignore[assignment]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for block, activation in zip(blocks, kept, strict=True):
            block.activation = activation


def _table_gelu(x: Tensor) -> Tensor:
    """llama.cpp's, of either kind: the approximation by tanh, looked up for float16 and kept in float16."""
    found = functional.gelu(x.to(torch.float16).to(torch.float32), approximate="tanh")
    return found.to(torch.float16).to(x.dtype)
