"""Invariant: attention in blocks of queries is attention by a mask, value and gradients, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_llm.backbone.attention import attend, build_mask
from lit_llm.backbone.query_blocks import attend_causally, causal_blocks
from lit_llm.backbone.visibility import allowed_pairs

CPU = torch.device("cpu")


def heads(length: int, groups: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((3, 2 * groups, length, 4), *((3, 2, length, 4),) * 2)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def bias_and_mask(length: int, packed: bool, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    slots = torch.arange(length)[None]
    segments = (torch.arange(3)[:, None] * 7 + slots) // 40 if packed else None
    allowed = allowed_pairs(slots, slots, segments, segments, window)[:, None]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -torch.inf), allowed


def plain(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    scores = (q @ k.mT) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1) @ v


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "groups"), [(1, 1), (63, 3), (130, 1), (261, 2)])
def test_value_and_gradients(length: int, groups: int, packed: bool, window: int | None) -> None:
    mine, twin = heads(length, groups), heads(length, groups)
    bias, allowed = bias_and_mask(length, packed, window, torch.float64)
    out, expected = attend_causally(*mine, bias), plain(*twin, allowed)
    assert torch.allclose(out, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    # Used twice, as under gradient checkpointing: nothing that is kept may be spent.
    gradients = torch.autograd.grad(out, mine, weights, retain_graph=True)
    again = torch.autograd.grad(out, mine, weights)
    for got, repeated, wanted in zip(gradients, again, torch.autograd.grad(expected, twin, weights), strict=True):
        assert torch.equal(got, repeated) and torch.allclose(got, wanted, atol=1e-12)


def test_under_gradient_checkpointing() -> None:
    mine, twin = heads(70, 2), heads(70, 2)
    bias, _ = bias_and_mask(70, True, None, torch.float64)
    checkpoint(attend_causally, *mine, bias, use_reentrant=False).square().sum().backward()
    attend_causally(*twin, bias).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, twin, strict=True))  # type: ignore[arg-type]


def test_half_precision_is_as_exact_as_the_plain_form() -> None:
    exact, allowed = heads(200, 2, torch.float32), bias_and_mask(200, True, None, torch.float32)[1]
    wanted = torch.autograd.grad(plain(*exact, allowed).sum(), exact)
    errors = {}
    for backend in ("explicit", "blocks"):
        half = [each.detach().bfloat16().requires_grad_() for each in exact]
        segments = (torch.arange(3)[:, None] * 7 + torch.arange(200)[None]) // 40
        mask = build_mask(200, CPU, torch.bfloat16, segments, backend=backend)  # type: ignore[arg-type]
        got = torch.autograd.grad(attend(*half, mask).float().sum(), half)
        errors[backend] = max(
            float((a.float() - b).norm() / b.norm().clamp_min(1)) for a, b in zip(got, wanted, strict=True)
        )
    assert errors["blocks"] < 1.1 * errors["explicit"] < 0.1


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 4), (torch.float32, 8)])
@pytest.mark.parametrize("length", [1, 64, 65, 256, 257, 1001])
def test_causal_blocks_hold_every_query_once(length: int, dtype: torch.dtype, most: int) -> None:
    blocks = causal_blocks(torch.zeros(1, 1, length, length, dtype=dtype))
    queries = [each for block in blocks for each in range(length)[block.queries]]
    assert queries == list(range(length)) and len(blocks) <= (most if length > 256 else 4)
    assert length != 1001 or len(blocks) == most
    assert all(block.keys == slice(0, block.queries.stop) for block in blocks)


def test_the_operator_for_compiled_code_is_the_same() -> None:
    """Its schema, its shapes as the compiler is told them, its gradients: what the compiler relies on."""
    q, k, v = (each.detach().float().requires_grad_() for each in heads(70, 2))
    bias, _ = bias_and_mask(70, True, None, torch.float32)
    torch.library.opcheck(torch.ops.lit_llm.attend_causally.default, (q, k, v, bias))
    mine = torch.autograd.grad(torch.ops.lit_llm.attend_causally(q, k, v, bias)[0].square().sum(), (q, k, v))
    twin = torch.autograd.grad(attend_causally(q, k, v, bias).square().sum(), (q, k, v))
    assert all(torch.equal(got, wanted) for got, wanted in zip(mine, twin, strict=True))
