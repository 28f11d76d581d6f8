"""PPO's mathematics against loops and sums written out, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.objectives import policy


def problem(seed, rows=3, tokens=6):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=g)
    mask = torch.arange(tokens) < lengths[:, None]
    draw = lambda: torch.randn(rows, tokens, generator=g, dtype=torch.float64)  # noqa: E731
    return mask, draw(), draw(), draw(), draw()


seeds = st.integers(0, 10**6)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_gae_is_the_double_sum(seed, gamma, lam):
    mask, rewards, values, *_ = problem(seed)
    advantages, returns = policy.gae(rewards, values, mask, gamma, lam)
    for b in range(mask.shape[0]):
        n = int(mask[b].sum())
        v = [*values[b, :n].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            assert advantages[b, t].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert returns[b, t].item() == pytest.approx(expected + v[t], rel=1e-9, abs=1e-12)
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_a_cut_answer_goes_on_with_the_value_of_the_state_it_was_cut_in(seed, gamma, lam):
    mask, rewards, values, other, _ = problem(seed)
    after = other[:, 0]
    advantages, returns = policy.gae(rewards, values, mask, gamma, lam, after)
    for b in range(mask.shape[0]):
        n = int(mask[b].sum())
        v = [*values[b, :n].tolist(), after[b].item()]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            assert advantages[b, t].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert returns[b, t].item() == pytest.approx(expected + v[t], rel=1e-9, abs=1e-12)


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    mask, rewards, values, *_ = problem(1)
    advantages, returns = policy.gae(rewards, values, mask, 1.0, 1.0)
    to_go = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, torch.where(mask, to_go, 0))
    torch.testing.assert_close(advantages, torch.where(mask, to_go - values, 0))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_whitening_gives_mean_zero_and_unbiased_variance_one(seed):
    mask, values, *_ = problem(seed)
    if mask.sum() < 3:
        return
    white = policy.whiten(values, mask)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-9)
    assert white[mask].var().item() == pytest.approx(1.0, rel=1e-5)
    assert (white[~mask] == 0).all()


def test_statistics_under_a_mask_are_those_of_the_selected_values():
    mask, values, *_ = problem(2)
    assert policy.masked_mean(values, mask).item() == pytest.approx(values[mask].mean().item())
    assert policy.masked_variance(values, mask).item() == pytest.approx(values[mask].var().item())
    assert policy.masked_mean(values, torch.zeros_like(mask)).item() == 0


def policy_loss_by_hand(new, old, advantages, mask, eps, eps_high=None):
    terms = []
    for b, t in mask.nonzero().tolist():
        ratio, a = math.exp(new[b, t] - old[b, t]), advantages[b, t].item()
        terms.append(max(-a * ratio, -a * min(max(ratio, 1 - eps), 1 + (eps_high or eps))))
    return sum(terms) / len(terms)


def value_loss_by_hand(new, old, returns, mask, eps):
    terms = []
    for b, t in mask.nonzero().tolist():
        v, o, r = new[b, t].item(), old[b, t].item(), returns[b, t].item()
        near = min(max(v, o - eps), o + eps)
        terms.append(max((v - r) ** 2, (near - r) ** 2) / 2)
    return sum(terms) / len(terms)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, eps=st.floats(0.05, 0.4))
def test_losses_are_the_loops(seed, eps):
    mask, new, old, targets, _ = problem(seed)
    loss, _ = policy.ppo_policy_loss(new, old, targets, mask, eps)
    assert loss.item() == pytest.approx(policy_loss_by_hand(new, old, targets, mask, eps), rel=1e-9)
    loss, _ = policy.ppo_value_loss(new, old, targets, mask, eps)
    assert loss.item() == pytest.approx(value_loss_by_hand(new, old, targets, mask, eps), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, eps=st.floats(0.05, 0.4), high=st.floats(0.05, 0.9))
def test_an_upper_bound_of_its_own_moves_only_the_upper_side(seed, eps, high):
    """DAPO's clip-higher: the value, and the gradient -A rho where neither bound holds it back."""
    mask, given, old, advantages, _ = problem(seed)
    new = given.clone().requires_grad_()
    loss, metrics = policy.ppo_policy_loss(new, old, advantages, mask, eps, high)
    assert loss.item() == pytest.approx(policy_loss_by_hand(given, old, advantages, mask, eps, high), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, new)
    ratio = (given - old).exp()
    held = ((ratio < 1 - eps) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    torch.testing.assert_close(gradient, torch.where(mask & ~held, -advantages * ratio / mask.sum(), 0))
    assert metrics["policy/clipfrac"].item() == pytest.approx(held[mask].double().mean().item())


@settings(max_examples=30, deadline=None)
@given(seed=seeds, noise=st.floats(-20, 20))
def test_what_stands_outside_the_mask_changes_nothing(seed, noise):
    mask, a, b, c, _ = problem(seed)

    def results(a, b, c):
        advantages, returns = policy.gae(a, b, mask)
        scores = torch.zeros(len(a), dtype=a.dtype)
        numbers = [
            policy.masked_mean(a, mask), policy.explained_variance(a, b, mask),
            policy.ppo_policy_loss(a, b, c, mask)[0], policy.ppo_value_loss(a, b, c, mask)[0],
            *policy.ppo_policy_loss(a, b, c, mask)[1].values(), *policy.ppo_value_loss(a, b, c, mask)[1].values(),
        ]  # fmt: skip
        return [advantages, returns, policy.whiten(a, mask), policy.token_rewards(scores, b, mask, 0.1), *numbers]

    changed = [torch.where(mask, x, x + noise) for x in (a, b, c)]
    for before, after in zip(results(a, b, c), results(*changed), strict=True):
        assert torch.equal(before, after)


def test_before_any_update_the_ratio_is_one_and_nothing_is_clipped():
    mask, logps, _, advantages, _ = problem(3)
    loss, metrics = policy.ppo_policy_loss(logps, logps, advantages, mask)
    assert loss.item() == pytest.approx(-advantages[mask].mean().item())
    assert (metrics["policy/approx_kl"], metrics["policy/clipfrac"], metrics["policy/ratio"]) == (0, 0, 1)


def test_clipping_stops_the_gradient_only_where_it_would_go_further():
    old = torch.zeros(1, 4, dtype=torch.float64)
    new = torch.tensor([[0.5, -0.5, 0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    loss, metrics = policy.ppo_policy_loss(new, old, advantages, torch.ones(1, 4, dtype=torch.bool))
    (grad,) = torch.autograd.grad(loss, new)
    assert (grad[0] == 0).tolist() == [True, False, False, True]
    assert metrics["policy/clipfrac"].item() == 0.5


def test_the_score_falls_on_the_last_valid_token_and_the_penalty_on_every_token():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    kl = torch.tensor([[0.1, 0.2, 99.0], [0.3, 0.0, -0.1]])
    rewards = policy.token_rewards(torch.tensor([2.0, -1.0]), kl, mask, 0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 1.9, 0.0], [-0.15, 0.0, -0.95]]))


def test_the_estimators_of_kl_agree_with_the_exact_divergence():
    """k1 and k3 averaged over p itself are exactly KL(p, q); k3 is never negative."""
    g = torch.Generator().manual_seed(0)
    p, q = (torch.log_softmax(torch.randn(50, generator=g, dtype=torch.float64) / 4, 0) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    for estimator in (policy.kl_k1, policy.kl_k3):
        assert (p.exp() * estimator(p, q)).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    assert (policy.kl_k3(p, q) >= 0).all()


def test_explained_variance_of_a_perfect_and_of_a_constant_value_function():
    mask, returns, *_ = problem(4)
    assert policy.explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert policy.explained_variance(torch.full_like(returns, 3), returns, mask).item() == pytest.approx(0)


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1 + 0.2 * 0.1), (6.6, 1 + 0.1 * 0.1), (100.0, 1.02), (0.0, 0.98)])
def test_the_adaptive_coefficient_follows_the_error_clipped_at_a_fifth(kl, factor):
    target = 5.0 if kl == 6.0 else 6.0
    assert policy.adapted_kl_coef(0.2, kl, target, horizon=640, samples=64) == pytest.approx(0.2 * factor)


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_a_ratio_beyond_float32_leaves_loss_and_gradient_finite(advantage):
    logps, mask = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    loss, _ = policy.ppo_policy_loss(logps, torch.full((1, 2), -200.0), torch.full((1, 2), advantage), mask)
    loss.backward()
    assert loss.item() == pytest.approx(-1.2 * advantage) and logps.grad.eq(0).all()
