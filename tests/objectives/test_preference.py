"""The DPO family and KTO against their formulas written out with math.log and math.exp, and as TRL writes them."""

import math

import numpy as np
import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.objectives.preference import Pairs, dpo, hinge, ipo, kto, kto_baseline, orpo, robust_dpo, simpo

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


OPTIONS = {  # written out: Tulu 3's equation, and the code of SimPO's authors
    "dpo, length normalised": (
        lambda batch: dpo(batch, beta=5.0, length_normalized=True),
        -log_sigmoid(5 / N_C * H_C - 5 / N_R * H_R),
    ),
    "dpo, length normalised and smoothed": (
        lambda batch: dpo(batch, beta=5.0, length_normalized=True, label_smoothing=0.2),
        -0.8 * log_sigmoid(5 * H_C / N_C - 5 * H_R / N_R) - 0.2 * log_sigmoid(5 * H_R / N_R - 5 * H_C / N_C),
    ),
    "simpo, smoothed": (
        lambda batch: simpo(batch, beta=2.5, gamma=1.4, label_smoothing=0.3),
        -0.7 * log_sigmoid(2.5 * (CHOSEN / N_C - REJECTED / N_R) - 1.4)
        - 0.3 * log_sigmoid(-2.5 * (CHOSEN / N_C - REJECTED / N_R) + 1.4),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_their_formulas_and_gradients_their_differences(name):
    loss, expected = OPTIONS[name]
    batch, step = pairs(), 1e-6
    assert loss(batch).losses.item() == pytest.approx(expected, rel=1e-12)
    found = torch.autograd.grad(loss(batch).losses.sum(), (batch.chosen, batch.rejected))
    for place, gradient in enumerate(found):
        moved = [[CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED] for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (loss(pairs(*values)).losses.item() for values in moved)
        assert gradient.item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_length_normalised_rewards_are_means_over_tokens():
    found = dpo(pairs(), beta=5.0, length_normalized=True)
    assert found.chosen_rewards.item() == pytest.approx(5 * H_C / N_C)
    assert found.rejected_rewards.item() == pytest.approx(5 * H_R / N_R)


def test_label_smoothing_mixes_both_directions():
    x = 0.1 * (H_C - H_R)
    assert dpo(pairs(), label_smoothing=0.2).losses.item() == pytest.approx(
        -0.8 * log_sigmoid(x) - 0.2 * log_sigmoid(-x), rel=1e-9
    )


def test_margins_are_how_far_a_pair_must_be_ahead_whichever_way_round_it_is():
    given = pairs()
    logit = 0.1 * (H_C - H_R)
    expected = -0.8 * log_sigmoid(logit - 1.5) - 0.2 * log_sigmoid(-logit - 1.5)
    found = dpo(given, label_smoothing=0.2, margins=torch.tensor([1.5], dtype=torch.float64))
    assert found.losses.item() == pytest.approx(expected, rel=1e-12)
    plain = dpo(given, label_smoothing=0.2)
    assert torch.equal(found.chosen_rewards, plain.chosen_rewards)


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
    name = "lambda_" if loss is orpo else "beta"
    with pytest.raises(UserError, match=f"loss.{name}"):
        loss(pairs(), **{name: beta})


@pytest.mark.parametrize("loss", [dpo, robust_dpo, simpo])
def test_half_of_the_labels_flipped_says_nothing(loss):
    with pytest.raises(UserError, match=r"label_smoothing: 0\.5"):
        loss(pairs(), label_smoothing=0.5)


def ls(x):
    return -np.logaddexp(0, -x)


# As the documentation and code of TRL 0.2x write them (DPOTrainer.dpo_loss, ORPOTrainer.odds_ratio_loss,
# CPOTrainer.cpo_loss), on arrays of policy and reference log-probabilities; means where those take means.
TRL = {
    dpo: lambda c, r, rc, rr, *_: -ls(0.1 * ((c - r) - (rc - rr))),
    robust_dpo: lambda c, r, rc, rr, *_: (
        (-ls(0.1 * ((c - r) - (rc - rr))) * (1 - 0.1) + ls(-0.1 * ((c - r) - (rc - rr))) * 0.1) / (1 - 2 * 0.1)
    ),
    hinge: lambda c, r, rc, rr, *_: np.maximum(1 - 0.1 * ((c - r) - (rc - rr)), 0),
    ipo: lambda c, r, rc, rr, nc, nr: ((c / nc - r / nr) - (rc / nc - rr / nr) - 1 / (2 * 0.1)) ** 2,
    orpo: lambda c, r, _rc, _rr, nc, nr: (
        -c / nc - 0.1 * ls((c / nc - r / nr) - (np.log1p(-np.exp(c / nc)) - np.log1p(-np.exp(r / nr))))
    ),
    simpo: lambda c, r, _rc, _rr, nc, nr: -ls(2.0 * ((c / nc - r / nr) - 1.0 / 2.0)),
}


@pytest.mark.parametrize("loss", TRL, ids=lambda f: f.__name__)
def test_many_pairs_are_as_trl_computes_them(loss):
    generator = np.random.default_rng(0)
    logps = -generator.gamma(3, 8, (4, 64)) - 0.1
    tokens = generator.integers(1, 20, (2, 64))
    found = loss(Pairs(*(torch.from_numpy(x) for x in (*logps, *tokens))))
    np.testing.assert_allclose(found.losses.numpy(), TRL[loss](*logps, *tokens), rtol=1e-9)
    assert found.losses.dtype == torch.float64


def test_kto_is_trl_s_formula_with_its_weights():
    generator = np.random.default_rng(1)
    h, labels, unrelated = generator.normal(0, 20, 40), generator.random(40) < 0.4, generator.normal(4, 9, 40)
    z = kto_baseline(torch.from_numpy(unrelated))
    assert z.item() == pytest.approx(max(0.0, unrelated.mean()), rel=1e-12) and z.item() > 0
    found, rewards = kto(torch.from_numpy(h), torch.from_numpy(labels), z, 0.2, 1.1, 0.7)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    good, bad = 1.1 * (1 - sigmoid(0.2 * (h - z.item()))), 0.7 * (1 - sigmoid(0.2 * (z.item() - h)))
    np.testing.assert_allclose(found.numpy(), np.where(labels, good, bad), rtol=1e-9)
    np.testing.assert_allclose(rewards.numpy(), 0.2 * h)


def test_kto_s_baseline_is_never_negative_and_carries_no_gradient():
    drift = torch.tensor([-3.0, 1.0], requires_grad=True)
    assert kto_baseline(drift).item() == 0 and not kto_baseline(drift + 5).requires_grad


def test_kto_pushes_the_good_up_and_the_bad_down():
    h = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    losses, _ = kto(h, torch.tensor([True, False]), torch.tensor(0.0))
    assert losses.tolist() == [0.5, 0.5]
    (gradient,) = torch.autograd.grad(losses.sum(), h)
    assert gradient.tolist() == pytest.approx([-0.1 / 4, 0.1 / 4])


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_kto_s_options_must_be_positive(name, value):
    with pytest.raises(UserError, match=rf"stage.{name}"):
        kto(torch.zeros(1), torch.tensor([True]), torch.zeros(()), **{name: value})
