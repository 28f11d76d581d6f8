"""GRPO's mathematics against loops written out in float64, autograd of other formulas, and exact expectations."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.objectives import group
from lit_llm.objectives.options import RATIOS
from lit_llm.objectives.policy import kl_k1, kl_k3

seeds = st.integers(0, 10**6)
reward_values = st.sampled_from([0.0, 1.0, 0.1, 0.3, -2.5, math.nan])


def problem(seed, rows=6, tokens=5):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows,), generator=g)[:, None]
    draw = lambda: 0.5 * torch.randn(rows, tokens, generator=g, dtype=torch.float64)  # noqa: E731
    return mask, draw(), draw(), draw(), torch.randn(rows, generator=g, dtype=torch.float64)


def by_hand(rewards, size, scale):
    """Advantages of a list, one group after the other."""
    known = [r for r in rewards if not math.isnan(r)]
    batch = statistics.stdev(known) if len(known) > 1 else 0.0
    found = []
    for start in range(0, len(rewards), size):
        verified = [r for r in rewards[start : start + size] if not math.isnan(r)]
        own = statistics.stdev(verified) if len(verified) > 1 else 0.0
        divisor = {"none": 1.0, "group": own + 1e-4, "batch": batch + 1e-4}[scale]
        for reward in rewards[start : start + size]:
            taught = not math.isnan(reward) and len(set(verified)) > 1
            found.append((reward - statistics.fmean(verified)) / divisor if taught else 0.0)
    return found


@settings(max_examples=60, deadline=None)
@given(rewards=st.lists(reward_values, min_size=4, max_size=12), size=st.sampled_from([2, 4]))
@pytest.mark.parametrize("scale", group.SCALES)
def test_advantages_are_those_of_a_loop_over_groups(scale, rewards, size):
    rewards = rewards[: len(rewards) // size * size]
    found = group.group_advantages(torch.tensor(rewards, dtype=torch.float64), size, scale)
    assert found.tolist() == pytest.approx(by_hand(rewards, size, scale), abs=1e-12)


@pytest.mark.parametrize("scale", group.SCALES)
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, math.nan])
def test_equal_rewards_teach_exactly_nothing(scale, value):
    rewards = torch.tensor([value] * 7 + [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    advantages = group.group_advantages(rewards, 7, scale)
    assert (advantages[:7] == 0).all() and (advantages[7:] != 0).all()
    assert group.equal_rewards(rewards, 7).tolist() == [True, False]


def test_what_could_not_be_verified_is_out_of_the_baseline_and_gets_nothing():
    rewards = torch.tensor([1.0, 0.0, math.nan, math.nan, math.nan, 5.0])
    assert group.group_advantages(rewards, 3).tolist() == [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    assert group.reward_std(rewards).item() == pytest.approx(statistics.stdev([1.0, 0.0, 5.0]))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shift=st.floats(-5, 5))
def test_advantages_sum_to_zero_and_do_not_see_a_shift_or_the_order_of_a_group(seed, shift):
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    advantages = group.group_advantages(rewards, 4, "group")
    assert advantages.view(3, 4).sum(1).abs().max() < 1e-9
    torch.testing.assert_close(group.group_advantages(rewards + shift, 4, "group"), advantages)
    turned = rewards.view(3, 4).flip(1).reshape(-1)
    torch.testing.assert_close(group.group_advantages(turned, 4, "group"), advantages.view(3, 4).flip(1).reshape(-1))


@pytest.mark.parametrize(
    ("rows", "size", "message"), [(8, 1, "group_size: 1;"), (9, 4, "9 answers are no whole groups of 4")]
)
def test_groups_that_are_none_are_refused(rows, size, message):
    with pytest.raises(UserError, match=message):
        group.group_advantages(torch.zeros(rows), size)


def loss_by_hand(mask, logps, old, reference, advantages, how, low, high, beta, longest, ratio="token", delta=math.inf):
    rows, answers = mask.shape[0], []
    for b in range(rows):
        terms, n = [], int(mask[b].sum())
        of_answer = math.prod(math.exp(logps[b, t] - old[b, t]) for t in range(n)) ** (1 / n)
        for t in range(n):
            of_token = math.exp(logps[b, t] - old[b, t])
            rho = of_answer if ratio == "sequence" else of_token
            gain = min(min(rho, delta) * advantages[b], min(max(rho, 1 - low), 1 + high) * advantages[b])
            log_q_over_p = float(reference[b, t] - logps[b, t])
            terms.append(-float(gain) + beta * of_token * (math.exp(log_q_over_p) - log_q_over_p - 1))
        answers.append(terms)
    if how == "token_mean":
        return sum(map(sum, answers)) / sum(map(len, answers))
    if how == "sequence_mean":
        return statistics.fmean(statistics.fmean(terms) for terms in answers)
    return sum(map(sum, answers)) / (rows * longest)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, beta=st.sampled_from([0.0, 0.3]), low=st.floats(0.05, 0.5), high=st.floats(0.05, 0.5))
@pytest.mark.parametrize("how", group.AGGREGATIONS)
def test_the_loss_is_the_sum_written_out_whatever_stands_outside_the_mask(how, seed, beta, low, high):
    mask, logps, old, reference, advantages = problem(seed)
    weights = group.token_weights(mask, how, max_length=9)
    loss, metrics = group.grpo_loss(logps, old, advantages, weights, low, high, reference, beta)
    expected = loss_by_hand(mask, logps, old, reference, advantages, how, low, high, beta, 9)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)  # the weights are float32
    rho = (logps - old).exp()
    clipped_low = mask & (rho < 1 - low) & (advantages[:, None] < 0)
    clipped_high = mask & (rho > 1 + high) & (advantages[:, None] > 0)
    assert metrics["policy/clip_low"] == clipped_low.sum() and metrics["policy/clip_high"] == clipped_high.sum()
    assert metrics["tokens"] == mask.sum()
    noise = torch.where(mask, 0, 3 * torch.randn(mask.shape, dtype=torch.float64))
    again, _ = group.grpo_loss(logps + noise, old - noise, advantages, weights, low, high, reference + noise, beta)
    assert again.item() == loss.item()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, beta=st.sampled_from([0.0, 0.3]), delta=st.sampled_from([None, 1.3, 1.6]))
@pytest.mark.parametrize("how", group.AGGREGATIONS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_ratios_of_whole_answers_and_the_second_bound_are_the_sum_written_out(ratio, how, seed, beta, delta):
    mask, logps, old, reference, advantages = problem(seed)
    weights = group.token_weights(mask, how, max_length=9)
    loss, metrics = group.grpo_loss(logps, old, advantages, weights, 0.1, 0.2, reference, beta, ratio, delta)
    expected = loss_by_hand(
        mask, logps, old, reference, advantages, how, 0.1, 0.2, beta, 9, ratio, math.inf if delta is None else delta
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    sums, lengths = ((logps - old) * mask).sum(1, keepdim=True), mask.sum(1, keepdim=True)
    rho = ((sums / lengths).exp() if ratio == "sequence" else (logps - old).exp()).expand_as(mask)
    held = mask & (rho > (delta or math.inf)) & (advantages[:, None] < 0)
    assert metrics.get("policy/clip_delta", 0) == held.sum() and metrics["tokens"] == mask.sum()
    assert metrics["policy/ratio"].item() == pytest.approx(rho[mask].sum().item())


@settings(max_examples=25, deadline=None)
@given(seed=seeds, delta=st.sampled_from([None, 1.6]))
def test_the_gradient_of_a_ratio_of_whole_answers_is_gspos(seed, delta):
    """GSPO's equation 10, of what is not clipped: A s times the mean of the tokens' gradients, for each answer."""
    mask, logps, old, _, advantages = problem(seed)
    one = logps.clone().requires_grad_()
    weights = group.token_weights(mask, "sequence_mean").double()
    group.grpo_loss(one, old, advantages, weights, 0.1, 0.2, ratio="sequence", delta=delta)[0].backward()
    lengths = mask.sum(1)
    s = (((logps - old) * mask).sum(1) / lengths).exp()
    taught = ~((s < 0.9) & (advantages < 0)) & ~((s > 1.2) & (advantages > 0))
    taught &= ~((s > (delta or math.inf)) & (advantages < 0))
    expected = -(advantages * s * taught / lengths / len(mask))[:, None] * mask
    torch.testing.assert_close(one.grad, expected, rtol=1e-6, atol=1e-9)


def test_what_delta_holds_back_has_no_gradient_and_the_rest_has_all_of_it():
    logps = torch.tensor([[2.0, 0.5], [2.0, 0.1]], dtype=torch.float64, requires_grad=True)
    weights, advantages = torch.full((2, 2), 0.25, dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    old = torch.zeros(2, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(group.grpo_loss(logps, old, advantages, weights, delta=4.0)[0], logps)
    expected = [[0.0, 0.25 * math.exp(0.5)], [0.0, -0.25 * math.exp(0.1)]]
    assert gradient.tolist() == [pytest.approx(row) for row in expected]


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("how", group.AGGREGATIONS)
def test_the_gradient_is_autograds_of_another_formula(how, seed):
    """-A rho where the clip leaves a gradient; rho * k3 multiplied out is q / p_old - rho log(q / p) - rho."""
    mask, logps, old, reference, advantages = problem(seed)
    weights = group.token_weights(mask, how, max_length=9)
    one, two = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    group.grpo_loss(one, old, advantages, weights, 0.2, 0.28, reference, 0.4)[0].backward()
    rho, gain = (two - old).exp(), advantages[:, None]
    open_ = ~((rho < 0.8) & (gain < 0)) & ~((rho > 1.28) & (gain > 0))
    penalty = (reference - old).exp() - rho * (reference - two) - rho
    (weights * mask * (-gain * rho * open_ + 0.4 * penalty)).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-9, atol=1e-12)
    assert (one.grad[~mask] == 0).all()


@pytest.mark.parametrize("how", group.AGGREGATIONS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_micro_batches_and_padding_add_up_to_the_same_loss_and_gradient(ratio, how):
    mask, logps, old, reference, advantages = problem(3)
    weights = group.token_weights(mask, how, max_length=9)
    whole, parts = logps.clone().requires_grad_(), logps.clone().requires_grad_()
    loss, metrics = group.grpo_loss(whole, old, advantages, weights, 0.2, 0.28, reference, 0.1, ratio)
    loss.backward()
    total, clipped = 0.0, 0.0
    for rows in (torch.tensor([4, 0]), torch.tensor([1]), torch.tensor([5, 3, 2])):
        part, counted = group.grpo_loss(
            parts[rows], old[rows], advantages[rows], weights[rows], 0.2, 0.28, reference[rows], 0.1, ratio
        )
        part.backward()
        total, clipped = total + part.item(), clipped + counted["policy/clip_high"].item()
    assert total == pytest.approx(loss.item(), rel=1e-9) and clipped == metrics["policy/clip_high"].item()
    torch.testing.assert_close(whole.grad, parts.grad)
    wide = torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(group.token_weights(wide, how, max_length=9)[:, :-2], weights)


def test_equal_rewards_give_no_gradient():
    mask, logps, old, _, _ = problem(1)
    logps.requires_grad_()
    advantages = group.group_advantages(torch.full((6,), 0.1, dtype=torch.float64), 3, "group")
    group.grpo_loss(logps, old, advantages, group.token_weights(mask))[0].backward()
    assert (logps.grad == 0).all()


def test_rho_k3_has_the_gradient_of_the_kl_from_policy_to_reference_and_its_neighbours_have_not():
    """Expectations over a whole vocabulary, written out: k3 alone pulls like the other KL, k1 like none."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=g, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0)
    older = torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0)
    gradient = lambda value: torch.autograd.grad(value, logits, retain_graph=True)[0]  # noqa: E731
    logps = logits.log_softmax(0)
    here, there = logps.detach(), reference
    reverse = gradient((logps.exp() * (logps - there)).sum())
    forward = gradient((there.exp() * (there - logps)).sum())
    one_token = {"advantages": torch.zeros(7, dtype=torch.float64), "reference": reference[:, None], "kl_coef": 1.0}
    for sampling in (here, older):  # on policy, and with the answers of an older one
        loss, _ = group.grpo_loss(logps[:, None], sampling[:, None], weights=sampling.exp()[:, None], **one_token)
        torch.testing.assert_close(gradient(loss), reverse)
    torch.testing.assert_close(gradient((here.exp() * kl_k3(logps, there)).sum()), forward)
    assert gradient((here.exp() * kl_k1(logps, there)).sum()).abs().max() < 1e-12


def test_k1_in_the_reward_has_the_gradient_of_the_kl_from_policy_to_reference():
    """Every answer of the vocabulary once, at its probability: the score function of -k1."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, generator=g, dtype=torch.float64).log_softmax(0)
    logps = logits.log_softmax(0)
    here = logps.detach()
    rewards = -kl_k1(here, reference)
    loss, _ = group.grpo_loss(
        logps[:, None], here[:, None], rewards - (here.exp() * rewards).sum(), here.exp()[:, None]
    )
    found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits)[0])


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="scale: std; must be one of none, group, batch"):
        group.group_advantages(torch.zeros(4), 2, "std")
    for delta in (1.0, 1.28, math.nan, math.inf):
        with pytest.raises(UserError, match=r"delta: .*; must be above 1 \+ eps_high = 1.28, or null"):
            group.grpo_loss(*[torch.zeros(1, 1)] * 2, torch.zeros(1), torch.ones(1, 1), delta=delta)
    with pytest.raises(UserError, match="ratio: answer; must be one of token, sequence"):
        group.grpo_loss(*[torch.zeros(1, 1)] * 2, torch.zeros(1), torch.ones(1, 1), ratio="answer")
    with pytest.raises(UserError, match="aggregation: mean; must be one of token_mean"):
        group.token_weights(torch.ones(2, 2, dtype=torch.bool), "mean")


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("delta", [None, 2.0])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_a_ratio_beyond_float32_leaves_loss_and_gradient_finite(ratio, delta, advantage):
    logps = torch.tensor([[0.0, -1.0]], requires_grad=True)
    old, mask = torch.tensor([[-200.0, -300.0]]), torch.ones(1, 2)
    loss, _ = group.grpo_loss(
        logps, old, torch.tensor([advantage]), mask / 2, reference=old - 200, kl_coef=0.1, ratio=ratio, delta=delta
    )
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logps.grad).all()
