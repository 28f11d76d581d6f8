"""The DPO family against its formulas written out with math.log and math.exp."""

import math

import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.objectives.preference import Pairs, dpo, hinge, ipo, orpo, robust_dpo, simpo

CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, N_C, N_R = -12.0, -15.5, -13.1, -14.2, 7, 9
H_C, H_R = CHOSEN - REF_CHOSEN, REJECTED - REF_REJECTED


def pairs(*values, tokens=(N_C, N_R)):
    values = values or (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
    tensors = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]
    return Pairs(*tensors, *(torch.tensor([n]) for n in tokens))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def log_odds(logp):
    return logp - math.log(1 - math.exp(logp))


FORMULAS = {
    dpo: -log_sigmoid(0.1 * (H_C - H_R)),
    robust_dpo: (-0.9 * log_sigmoid(0.1 * (H_C - H_R)) + 0.1 * log_sigmoid(-0.1 * (H_C - H_R))) / 0.8,
    hinge: max(0.0, 1 - 0.1 * (H_C - H_R)),
    ipo: (H_C / N_C - H_R / N_R - 1 / 0.2) ** 2,
    orpo: -CHOSEN / N_C - 0.1 * log_sigmoid(log_odds(CHOSEN / N_C) - log_odds(REJECTED / N_R)),
    simpo: -log_sigmoid(2 * (CHOSEN / N_C - REJECTED / N_R) - 1),
}


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda f: f.__name__)
def test_each_loss_is_its_formula(loss):
    assert loss(pairs()).losses.item() == pytest.approx(FORMULAS[loss], rel=1e-6)


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda f: f.__name__)
def test_each_gradient_raises_the_chosen_and_lowers_the_rejected(loss):
    batch = pairs()
    chosen, rejected = torch.autograd.grad(loss(batch).losses.sum(), (batch.chosen, batch.rejected))
    assert chosen.item() < 0 < rejected.item()


def test_label_smoothing_mixes_both_directions():
    x = 0.1 * (H_C - H_R)
    assert dpo(pairs(), label_smoothing=0.2).losses.item() == pytest.approx(
        -0.8 * log_sigmoid(x) - 0.2 * log_sigmoid(-x), rel=1e-9
    )


def test_robust_dpo_is_unbiased_under_flipped_labels():
    """The expectation over labels flipped with probability e is the DPO loss on clean labels."""
    e, swapped = 0.2, pairs(REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN, tokens=(N_R, N_C))
    noisy = (1 - e) * robust_dpo(pairs(), label_smoothing=e).losses + e * robust_dpo(swapped, label_smoothing=e).losses
    assert noisy.item() == pytest.approx(dpo(pairs()).losses.item(), rel=1e-9)


def test_at_margin_zero_dpo_is_ln_2_and_rewards_are_zero():
    same = dpo(pairs(-3.0, -8.0, -3.0, -8.0))
    assert same.losses.item() == pytest.approx(math.log(2), rel=1e-12)
    assert same.chosen_rewards.item() == same.rejected_rewards.item() == 0


def test_implicit_rewards_are_beta_times_the_log_ratio_and_detached():
    result = dpo(pairs(), beta=0.3)
    assert result.chosen_rewards.item() == pytest.approx(0.3 * H_C)
    assert result.rejected_rewards.item() == pytest.approx(0.3 * H_R)
    assert not result.chosen_rewards.requires_grad and result.losses.requires_grad


@pytest.mark.parametrize("loss", [orpo, simpo])
def test_reference_free_losses_do_not_read_the_reference(loss):
    nan = float("nan")
    assert loss.reference_free and math.isfinite(loss(pairs(CHOSEN, REJECTED, nan, nan)).losses.item())


def test_orpo_survives_a_certain_completion():
    assert math.isfinite(orpo(pairs(0.0, -5.0, 0.0, 0.0)).losses.item())


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan")])
def test_beta_must_be_positive(loss, beta):
    with pytest.raises(UserError, match="beta"):
        loss(pairs(), beta=beta)


@pytest.mark.parametrize("loss", [dpo, robust_dpo])
def test_half_of_the_labels_flipped_says_nothing(loss):
    with pytest.raises(UserError, match=r"label_smoothing: 0\.5"):
        loss(pairs(), label_smoothing=0.5)
