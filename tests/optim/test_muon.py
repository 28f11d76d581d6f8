"""Muon against the exact orthogonal factor, and both halves against torch's own optimizers."""

import copy
import math

import pytest
import torch
from torch import nn

from lit_llm.errors import UserError
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import POLAR_EXPRESS, MuonAdamW, muon_adamw, newton_schulz

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 64), (2, 64, 16), (24, 48)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 0.0), (torch.bfloat16, 0.02)])
def test_singular_values_go_to_one_and_vectors_stay(
    shape: tuple[int, ...], dtype: torch.dtype, rounding: float
) -> None:
    """Singular values down to 1/100 of the norm are mapped to 1 +- 0.15; U and V are kept."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    singular = torch.logspace(-2, 0, u.shape[-1], dtype=torch.float64)
    result = newton_schulz(u * singular @ v, dtype=dtype).double()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.85 - rounding and values.max() < 1.15 + rounding
    angle = u.mT @ result @ v.mT  # diagonal if the singular vectors are those of the input
    assert (angle - torch.diag_embed(torch.diagonal(angle, dim1=-2, dim2=-1))).abs().max() < 1e-9 + 2 * rounding
    assert ((result - polar_factor(u * singular @ v)).norm() / result.norm()) < 0.15


def test_three_steps_bring_singular_values_together_less_closely() -> None:
    """Above 1/100 of the norm they end between 0.15 and 1.9; what is smaller stays behind."""
    singular = torch.logspace(-3, 0, 600, dtype=torch.float64)
    singular = singular / singular.norm()
    values = torch.diagonal(newton_schulz(torch.diag(singular), POLAR_EXPRESS[:3], torch.float64))
    above = values[singular > 0.01]
    assert 0.15 < above.min() < 0.2 and 1.8 < above.max() < 1.9
    assert 0 < values[0] < 0.15


@pytest.mark.parametrize("steps", [0, 6])
def test_the_number_of_steps_is_checked(steps: int) -> None:
    with pytest.raises(UserError, match=r"optimizer\.newton_schulz_steps"):
        muon_adamw(Net(), newton_schulz_steps=steps)
    assert len(muon_adamw(Net(), newton_schulz_steps=3).coefficients) == 3


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(newton_schulz(torch.zeros(2, 8, 4)), torch.zeros(2, 8, 4))


def matrices_with_gradients(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 8), (8, 16), (16, 8), (8, 8)]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def test_the_step_is_torchs_muon() -> None:
    torch.manual_seed(1)
    ours, theirs = matrices_with_gradients(0), matrices_with_gradients(0)
    group = {"params": ours, "muon": True, "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    mine = MuonAdamW([group], coefficients=JORDAN, dtype=torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        mine.step()
        reference.step()
        for parameter, other in zip(ours, theirs, strict=True):
            parameter.grad = other.grad = torch.randn_like(parameter)
    for parameter, other, start in zip(ours, theirs, matrices_with_gradients(0), strict=True):
        # Both work in bfloat16, ours with a margin on the norm: they agree to its rounding.
        assert (parameter - other).norm() < 0.04 * (other - start).norm()


def test_the_update_has_adamws_size() -> None:
    parameter = nn.Parameter(torch.zeros(64, 32))
    parameter.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    MuonAdamW([{"params": [parameter], "muon": True, "lr": 1.0, "momentum": 0.95, "weight_decay": 0.0}]).step()
    assert parameter.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 6, bias=False)

    def loss(self) -> torch.Tensor:
        return self.lm_head(self.norm(self.hidden(self.embedding.weight))).logsumexp(-1).sum()


def test_the_rest_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours = Net()
    ours.hidden.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    first, second = muon_adamw(ours, lr=0.01), adamw(theirs, lr=0.01)
    for _ in range(4):
        for net, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            net.loss().backward()
            optimizer.step()
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=0, atol=0)


def test_a_loaded_state_goes_on_exactly() -> None:
    torch.manual_seed(0)
    first = Net()
    one = muon_adamw(first, lr=0.01)

    def steps(net: Net, optimizer: MuonAdamW) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            net.loss().backward()
            optimizer.step()

    steps(first, one)
    second = copy.deepcopy(first)
    two = muon_adamw(second, lr=0.01)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    steps(first, one)
    steps(second, two)
    for parameter, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_dropped_gradients_change_nothing() -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    muon_adamw(net, lr=0.1, weight_decay=0.5).step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_own_learning_rate_for_matrices() -> None:
    rates = {group["muon"]: group["lr"] for group in muon_adamw(Net(), lr=0.01, muon_lr=0.03).param_groups}
    assert rates == {True: 0.03, False: 0.01}
    assert {group["lr"] for group in muon_adamw(Net(), lr=0.01).param_groups} == {0.01}


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan])
def test_a_bad_learning_rate_is_named(lr: float) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        muon_adamw(Net(), lr=lr)
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        adamw(Net(), lr=lr)


def test_a_frozen_module_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        muon_adamw(Net().requires_grad_(False))
