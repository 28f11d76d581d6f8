from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lit_llm.backbone.dropout import Dropout, left_out
from lit_llm.backbone.lora import LoRALinear


@given(count=st.integers(0, 3000), p=st.floats(1e-6, 1 - 1e-6), seed=st.integers(0, 2**31))
def test_what_is_left_out_is_places_of_the_input_in_their_order(count: int, p: float, seed: int) -> None:
    torch.manual_seed(seed)
    places = left_out(count, p)
    assert places.dtype == torch.int64
    assert ((places >= 0) & (places < count)).all()
    assert (places.diff() > 0).all()


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.95])
def test_each_element_is_left_out_with_the_share_and_independently_of_its_neighbour(p: float) -> None:
    torch.manual_seed(0)
    count = 400_000
    gone = torch.zeros(count, dtype=torch.bool)
    gone[left_out(count, p)] = True
    deviations = 5  # of a binomial: one test in a million fails by chance
    assert abs(gone.double().mean() - p) < deviations * math.sqrt(p * (1 - p) / count)
    both = (gone[1:] & gone[:-1]).double().mean()
    variance = p**2 * (1 - p**2) + 2 * (p**3 - p**4)  # of the products, neighbours of which share an element
    assert abs(both - p * p) < deviations * math.sqrt(variance / count)
    for part in gone.chunk(8):  # the beginning and the end no less than the middle
        assert abs(part.double().mean() - p) < deviations * math.sqrt(p * (1 - p) / (count / 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_stays_and_its_gradient_are_scaled_and_the_rest_is_zero(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 50, 40, dtype=dtype).transpose(0, 1).requires_grad_()
    y = Dropout(0.25)(x)
    gone = y == 0
    assert 0.15 < gone.double().mean() < 0.35
    expected = torch.where(gone, 0.0, x / 0.75)
    torch.testing.assert_close(y, expected.to(dtype))
    weights = torch.randn_like(y)
    y.backward(weights)
    torch.testing.assert_close(x.grad, torch.where(gone, 0.0, weights / 0.75).to(dtype))


def test_a_seed_repeats_it_and_the_input_stays_as_it_is() -> None:
    x = torch.randn(200)
    before, dropout = x.clone(), Dropout(0.3)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(x, before)


def test_a_compiled_adapter_is_one_graph() -> None:
    layer = LoRALinear(nn.Linear(8, 8), rank=2, alpha=4.0, dropout=0.5).train()
    assert torch._dynamo.explain(layer)(torch.randn(2, 8)).graph_break_count == 0


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_no_share_and_all_of_it_are_torchs(p: float) -> None:
    x = torch.randn(20)
    assert torch.equal(Dropout(p)(x), nn.Dropout(p)(x))


def test_nothing_is_left_out_in_evaluation_or_of_nothing() -> None:
    x = torch.randn(20)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)
