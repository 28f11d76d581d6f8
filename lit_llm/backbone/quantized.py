"""Frozen weights in 4 bits beside adapters (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes.

A weight of the blocks' linear layers becomes bitsandbytes' ``Params4bit``: codes of NF4, two to a byte, a scale for
each 64 of them, and these scales in 8 bits with one of their own for each 256 (double quantisation), as in the paper.
Embedding, head, norms and a router stay as they are.

The layers are the model's own, not ``Linear4bit``, which is the same weight and the same product, but rounds a layer's
bias to its input's type in place, keeps the type of the first input that it sees, whatever autocast says later, and on
processors with AVX512-BF16 lays the weight out anew once it is evaluated, after which it gives its input no gradient.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone.config import LINEAR_LAYERS
from lit_llm.backbone.norm import compute_dtype
from lit_llm.errors import UserError

BLOCK, SCALES = 64, 256  # weights that share a scale, and scales that share one


def quantize(model: nn.Module, asked: str = "stage.lora_quantization=nf4") -> None:
    """Keep the weights of the blocks' linear layers in NF4 and frozen, in place, one layer after another. Those that
    are in it already stay as they are; the others' memory is free where nobody else holds them.

    Raises UserError, which says what ``asked`` for it, where bitsandbytes is missing.
    """
    try:
        from bitsandbytes.nn import Params4bit
    except ImportError:
        raise UserError(f"{asked}: bitsandbytes is missing; pip install 'lit-llm[qlora]'") from None
    for name, layer in model.named_modules():
        if is_quantizable(name, layer) and not is_quantized(layer.weight):
            weight: Tensor = layer.weight.detach()
            kept = Params4bit(weight, requires_grad=False, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
            layer.weight = kept.to(weight.device)


def is_quantizable(name: str, layer: nn.Module) -> bool:
    """Whether a layer of this name in a model is one of those whose weight is kept in 4 bits."""
    return isinstance(layer, nn.Linear) and ".layers." in f".{name}" and name.rpartition(".")[2] in LINEAR_LAYERS


@torch.no_grad()
def dequantize(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep all weights as ``dtype`` again, in place: those that the 4 bits stand for."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and is_quantized(layer.weight):
            layer.weight = nn.Parameter(whole(layer.weight, dtype), requires_grad=False)


def is_quantized(weight: Tensor) -> bool:
    return getattr(weight, "quant_state", None) is not None


def has_quantized(model: nn.Module) -> bool:
    return any(map(is_quantized, model.parameters()))


def whole(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's weight (out, in), also where it is kept in 4 bits."""
    if not is_quantized(weight):
        return weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return found.to(dtype)


def dtype_of(weight: Tensor) -> torch.dtype:
    """The type that a weight is of, or was before it was quantised."""
    found: torch.dtype = weight.quant_state.dtype if is_quantized(weight) else weight.dtype  # type: ignore[attr-defined]
    return found


def size_of(weight: Tensor) -> int:
    """How many numbers a weight has."""
    return math.prod(weight.quant_state.shape) if is_quantized(weight) else weight.numel()  # type: ignore[attr-defined]


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W' + b of a weight kept in 4 bits, which is made whole for as long as the product takes, forward and backward:
    autograd keeps the 4 bits. In the type that products have: autocast's, else that of x."""
    from bitsandbytes import matmul_4bit

    x = x.to(compute_dtype(x))
    if x.dtype == torch.float64:  # which bitsandbytes has not
        return F.linear(x, whole(weight, x.dtype), None if bias is None else bias.to(x.dtype))
    out: Tensor = matmul_4bit(x, weight, quant_state=weight.quant_state)  # type: ignore[attr-defined]
    return out if bias is None else out + bias.to(out.dtype)


# Memory


def bytes_of(numbers: int) -> int:
    """What a weight of so many numbers takes in NF4: 0.516 bytes each."""
    scales = -(-numbers // BLOCK)
    maps = 4 * (16 + 256 + 1)  # what the codes of weights and of scales stand for, and the mean of the scales
    return -(-numbers // 2) + scales + 4 * -(-scales // SCALES) + maps


# What a checkpoint keeps: the names of bitsandbytes, which transformers has in its 4-bit folders too


def add_scales(weight: Tensor, state: MutableMapping[str, Any], prefix: str) -> None:
    """Adds to a layer's state what its codes are multiplied by."""
    for name, value in weight.quant_state.as_dict(packed=True).items():  # type: ignore[attr-defined]
        state[f"{prefix}weight.{name}"] = value.detach()


@torch.no_grad()
def take_scales(weight: Tensor, state: MutableMapping[str, Any], prefix: str) -> list[str]:
    """Takes out of a layer's state what ``add_scales`` put there, into the very tensors of ``weight``, which networks
    may share. Returns the names of what is missing."""
    from bitsandbytes.functional import QuantState

    begin = f"{prefix}weight."
    found = {name.removeprefix(begin): state.pop(name) for name in list(state) if name.startswith(begin)}
    own = weight.quant_state  # type: ignore[attr-defined]
    missing = [begin + name for name in own.as_dict(packed=True) if name not in found]
    if not missing:
        kept = QuantState.from_dict(found, device=weight.device)
        own.absmax.copy_(kept.absmax)
        own.state2.absmax.copy_(kept.state2.absmax)
        own.offset.copy_(kept.offset)
    return missing
