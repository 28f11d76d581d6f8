"""Invariants of the rotation: lengths stay, products depend on distance alone, the gradient is the turn back."""

from __future__ import annotations

import dataclasses

import torch

from lit_llm.backbone.config import BackboneConfig, RopeScaling
from lit_llm.backbone.rotary import Rotary, rotary_frequencies, rotate


def heads(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def test_products_depend_on_distance_alone(tiny: BackboneConfig) -> None:
    rotary = Rotary(tiny)
    q, k = heads(1, 2, 1, 8), heads(1, 2, 1, 8)
    products = []
    for shift in (0, 17):
        turned_q = rotate(q, rotary(torch.tensor([[5 + shift]]), torch.float32))
        turned_k = rotate(k, rotary(torch.tensor([[2 + shift]]), torch.float32))
        assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
        products.append((turned_q * turned_k).sum(-1))
    assert torch.allclose(*products, atol=1e-5)
    assert not torch.allclose(products[0], (q * k).sum(-1), atol=1e-2)


def test_the_gradient_is_that_of_autograd(tiny: BackboneConfig) -> None:
    rotation = Rotary(tiny)(torch.arange(6)[None], torch.float32)
    x, grad = heads(2, 3, 6, 8).requires_grad_(), heads(2, 3, 6, 8)
    rotate(x, rotation).backward(grad)
    assert x.grad is not None
    expected = torch.autograd.functional.vjp(
        lambda y: y * rotation.cos + torch.cat(y.chunk(2, -1)[::-1], -1) * rotation.sin, x.detach(), grad
    )[1]
    assert torch.allclose(x.grad, expected, atol=1e-6)


def test_llama3_stretches_long_waves_only(tiny: BackboneConfig) -> None:
    plain = rotary_frequencies(tiny)
    scaling = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64)
    scaled = rotary_frequencies(dataclasses.replace(tiny, rope_scaling=scaling))
    assert scaled[0] == plain[0]
    assert torch.isclose(scaled[-1], plain[-1] / 8)
