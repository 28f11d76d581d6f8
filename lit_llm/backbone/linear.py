"""The linear layer of all blocks, multiplied by the faster of two libraries."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_llm.backbone import quantized
from lit_llm.backbone.norm import compute_dtype
from lit_llm.runtime import processor

MANY_ROWS = 1024
"""Tokens from which on oneDNN is faster in float32 with AVX2 than the library that torch gives products to, MKL: it
brings its factors into an order of its own first. One thread, 1e9 operations a second of the core's 91; x (N, in)
by weight (out, in), and the gradient by x; the weight's own gradient is MKL's (75, oneDNN 61):

    N, in, out           8192, 256, 256   8192, 256, 704   8192, 704, 256   2048, 384, 1024   2048, 1024, 384
    MKL                  67, 66           73, 69           70, 72           72, 70            74, 74
    oneDNN               74, 74           77, 76           76, 71           72, 71            77, 76

A step of the default shape takes 0.97 of the time, of 10m8 0.98; compiled code gains nothing and keeps to MKL.
"""


class Linear(nn.Linear):
    """x W' + b, where x (..., in), W (out, in), which may be kept in 4 bits."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if quantized.is_quantized(self.weight):
            quantized.add_scales(self.weight, destination, prefix)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        missing = quantized.take_scales(self.weight, state_dict, prefix) if quantized.is_quantized(self.weight) else []
        super()._load_from_state_dict(state_dict, prefix, *args)
        args[2].extend(missing)  # metadata, strict, missing, unexpected, errors


def is_plain(layer: nn.Linear) -> bool:
    """Whether a layer computes x W' + b and nothing else. A class of another package's is tried, with small numbers and
    large ones beside a weight of (3, 4): some only write the product in their own way."""
    if type(layer) is nn.Linear or isinstance(layer, Linear):
        return "forward" not in vars(layer)
    tried = copy.copy(layer)
    numbers = torch.Generator().manual_seed(0)
    with torch.device("cpu"), torch.no_grad():  # also of a model that is on no device
        weight, x = torch.randn(3, 4, generator=numbers), torch.randn(4, 2, 4, generator=numbers)
        sizes = torch.tensor([0.01, 1.0, 100.0, 10_000.0])[:, None, None]
        bias = None if layer.bias is None else nn.Parameter(torch.randn(3, generator=numbers))
        vars(tried)["_parameters"] = {"weight": nn.Parameter(weight), "bias": bias}
        try:
            found, wanted = tried.forward(x * sizes), F.linear(x * sizes, weight, bias)
            return bool(torch.allclose(found / sizes, wanted / sizes, rtol=1e-3, atol=1e-3))
        except Exception:  # whatever it asks for, a plain layer would not
            return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``F.linear``; the weight may be kept in 4 bits."""
    if quantized.is_quantized(weight):
        return quantized.product(x, weight, bias)
    if not _is_onednns(x, weight):
        return F.linear(x, weight, bias)
    out: Tensor = _OneDNN.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _is_onednns(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or not x.is_cpu or x.numel() < MANY_ROWS * x.shape[-1]:
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or compute_dtype(x) != torch.float32:
        return False
    there = bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and processor.has_narrow_vectors()


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trained = ctx.needs_input_grad[1]  # beside adapters it is frozen, and x need not be kept
        ctx.save_for_backward(x if trained else None, weight)
        ctx.shape = x.shape
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        grad = grads[0].flatten(0, -2)
        return (
            _product(grad, weight.t(), None).view(ctx.shape) if by_x else None,
            grad.t() @ x.flatten(0, -2) if by_weight else None,
            grad.sum(0) if by_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out
