"""Invariant: the norm with its own backward is the norm that autograd differentiates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_llm.backbone.norm import RMSNorm


def by_autograd(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("shape", [(3, 5, 16), (2, 4, 3, 8), (1, 1)])
def test_value_and_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    twin_x, twin_weight = (t.detach().double().requires_grad_() for t in (x, norm.weight))
    norm(x).backward(grad)
    expected = by_autograd(twin_x, twin_weight, 1e-3)
    expected.backward(grad.double())
    assert torch.allclose(norm(x).double(), expected, atol=1e-6)
    assert x.grad is not None and twin_x.grad is not None and norm.weight.grad is not None
    assert torch.allclose(x.grad.double(), twin_x.grad, atol=1e-5)
    assert twin_weight.grad is not None
    assert torch.allclose(norm.weight.grad.double(), twin_weight.grad, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient() -> None:
    norm = RMSNorm(8, 1e-6)
    norm.weight.requires_grad_(False)
    x = torch.randn(2, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and norm.weight.grad is None


def test_dtypes() -> None:
    """The mean is in float32, the result in the dtype of the matrices, the gradients in their owners'."""
    norm = RMSNorm(8, 1e-6)
    x = torch.randn(2, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    half = norm.to(torch.bfloat16)
    y = torch.full((1, 8), 300.0, dtype=torch.bfloat16, requires_grad=True)
    half.zero_grad()
    half(y).sum().backward()
    assert half(y).dtype == torch.bfloat16 and y.grad is not None and y.grad.dtype == torch.bfloat16
    assert torch.allclose(half(y).float(), torch.ones(1, 8), atol=1e-2)
