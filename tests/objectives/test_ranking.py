"""Ranking losses against loops over pairs in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.objectives.ranking import bradley_terry, gamma_prior, plackett_luce, strict_pairs


def tensors(prompts):
    """prompts: one list of (score, rank) for each prompt."""
    flat = [(g, s, r) for g, items in enumerate(prompts) for s, r in items]
    groups, scores, ranks = zip(*flat, strict=True)
    return torch.tensor(scores, requires_grad=True), torch.tensor(groups), torch.tensor(ranks)


def bradley_terry_by_hand(prompts, weights, centering=0.0, margin=0.0):
    total = count = 0.0
    for items, weight in zip(prompts, weights, strict=True):
        losses = [
            math.log1p(math.exp(-(a - b - margin))) + centering * (a + b) ** 2
            for a, better in items
            for b, worse in items
            if better < worse
        ]
        if losses:
            total, count = total + weight * sum(losses) / len(losses), count + weight
    return total, count


def plackett_luce_by_hand(prompts, weights):
    total = count = 0.0
    for items, weight in zip(prompts, weights, strict=True):
        loss = 0.0
        for score, rank in items:
            rivals = [math.exp(s) for s, r in items if r > rank]
            loss += math.log(sum(rivals) + math.exp(score)) - score
        if len({rank for _, rank in items}) > 1:
            total, count = total + weight * loss, count + weight
    return total, count


item = st.tuples(st.floats(-4, 4, width=32), st.integers(1, 4))
ranked_prompts = st.lists(st.lists(item, min_size=2, max_size=4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(prompts=ranked_prompts, seed=st.integers(0, 99), centering=st.sampled_from([0.0, 0.01]), margin=st.floats(0, 1))
def test_bradley_terry_is_the_loop_over_pairs(prompts, seed, centering, margin):
    weights = torch.rand(len(prompts), generator=torch.Generator().manual_seed(seed))
    expected = bradley_terry_by_hand(prompts, weights.tolist(), centering, margin)
    loss, count = bradley_terry(*tensors(prompts), weights, centering=centering, margin=margin)
    assert (loss.item(), count.item()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(prompts=ranked_prompts, seed=st.integers(0, 99))
def test_plackett_luce_is_the_loop_over_choices(prompts, seed):
    weights = torch.rand(len(prompts), generator=torch.Generator().manual_seed(seed))
    loss, count = plackett_luce(*tensors(prompts), weights)
    assert (loss.item(), count.item()) == pytest.approx(plackett_luce_by_hand(prompts, weights.tolist()), 1e-4, 1e-5)


@settings(max_examples=30, deadline=None)
@given(prompts=st.lists(st.lists(item, min_size=2, max_size=2), min_size=1, max_size=4))
def test_with_two_completions_plackett_luce_is_bradley_terry(prompts):
    one, two = tensors(prompts), tensors(prompts)
    weights = torch.ones(len(prompts))
    a, b = bradley_terry(*one, weights), plackett_luce(*two, weights)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(*(torch.autograd.grad(x[0], s[0])[0] for x, s in ((a, one), (b, two))))


@pytest.mark.parametrize("loss", [bradley_terry, plackett_luce])
def test_ties_make_no_pair_and_a_prompt_of_ties_is_not_counted(loss):
    tied, strict = [(3.0, 1), (-1.0, 1)], [(0.3, 1), (0.1, 2)]
    with_tie = loss(*tensors([tied, strict]), torch.ones(2))
    alone = loss(*tensors([strict]), torch.ones(1))
    assert with_tie[1].item() == 1
    torch.testing.assert_close(with_tie, alone)
    value, count = loss(*tensors([tied]), torch.ones(1))
    assert value.item() == 0 and count.item() == 0
    value.backward()


def test_pairs_never_cross_prompts():
    winners, losers = strict_pairs(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 1, 1, 1, 3]))
    assert sorted(zip(winners.tolist(), losers.tolist(), strict=True)) == [(1, 0), (2, 4), (3, 4)]


@pytest.mark.parametrize("loss", [bradley_terry, plackett_luce])
def test_only_differences_matter_and_the_gradient_raises_the_better(loss):
    scores, groups, ranks = tensors([[(0.5, 2), (0.2, 1), (-0.3, 3)]])
    torch.testing.assert_close(
        loss(scores, groups, ranks, torch.ones(1))[0], loss(scores + 7, groups, ranks, torch.ones(1))[0]
    )
    grad = torch.autograd.grad(loss(scores, groups, ranks, torch.ones(1))[0], scores)[0]
    assert grad[1] < 0 < grad[2] and abs(grad.sum()) < 1e-6


@settings(max_examples=40, deadline=None)
@given(prompts=ranked_prompts, margin=st.floats(0, 1), seed=st.integers(0, 99))
def test_margins_of_the_comparisons_are_added_to_the_constant_one(prompts, margin, seed):
    margins = torch.rand(len(prompts), generator=torch.Generator().manual_seed(seed)).double()
    by_hand = [
        bradley_terry_by_hand([items], [1.0], margin=margin + own)[0]
        for items, own in zip(prompts, margins.tolist(), strict=True)
    ]
    scores, groups, ranks = tensors(prompts)
    weights = torch.ones(len(prompts), dtype=torch.float64)
    loss, _ = bradley_terry(scores.double(), groups, ranks, weights, margins, margin=margin)
    assert loss.item() == pytest.approx(sum(by_hand), rel=1e-9, abs=1e-12)


def test_a_partial_ranking_is_that_of_what_was_ranked():
    """The unranked left out, or in one last tie: the items above them are chosen among fewer, or among all."""
    scores = torch.tensor([1.0, 0.2, -0.5, 0.7], dtype=torch.float64)
    top_two = plackett_luce(scores, torch.zeros(4, dtype=torch.int64), torch.tensor([1, 2, 3, 3]), torch.ones(1))[0]
    e = scores.exp()
    assert top_two.item() == pytest.approx(-math.log(e[0] / e.sum() * e[1] / e[1:].sum()), rel=1e-9)
    of_three = plackett_luce(scores[:3], torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2, 3]), torch.ones(1))[0]
    assert of_three.item() == pytest.approx(-math.log(e[0] / e[:3].sum() * e[1] / e[1:3].sum()), rel=1e-9)


def test_the_gamma_prior_is_the_density_up_to_a_constant():
    values = torch.tensor([0.1, 0.9, 1.0, 2.5], dtype=torch.float64)
    density = torch.distributions.Gamma(torch.tensor(10.0).double(), torch.tensor(7.0).double())
    expected = density.log_prob(torch.ones(1).double()) - density.log_prob(values)
    torch.testing.assert_close(gamma_prior(values.log(), 10.0, 7.0), expected)
