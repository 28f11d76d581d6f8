"""Best-of-n: the estimator against every subset, its KL against a simulation, and a curve from a real sampling."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.evaluation.answers import divergence
from lit_llm.evaluation.best_of_n import curve, expected_best, kl, measure_best_of_n, sizes_up_to
from lit_llm.generation.sampling import generate
from lit_llm.records import Message, Prompt

PROMPTS = [Prompt((Message("user", text),)) for text in ("The cat?", "The dog sat", "mat")]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-9, 9)), min_size=1, max_size=7),
    st.integers(1, 7),
)
def test_it_is_the_mean_over_every_subset(answers, n):
    n = min(n, len(answers))
    score, value = zip(*answers, strict=True)
    best = []
    for subset in itertools.combinations(range(len(answers)), n):
        top = max(score[i] for i in subset)
        # Of equal answers each is chosen alike, whichever subset they are in.
        best.append(np.mean([value[i] for i in range(len(answers)) if score[i] == top]))
    assert expected_best([score], [value], n)[0] == pytest.approx(np.mean(best), abs=1e-9)


def test_the_ends_are_the_mean_and_the_best():
    score = np.random.default_rng(0).normal(size=(5, 16))
    np.testing.assert_allclose(expected_best(score, score, 1), score.mean(1))
    np.testing.assert_allclose(expected_best(score, score, 16), score.max(1))
    with pytest.raises(ValueError, match="best of 17"):
        expected_best(score, score, 17)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_is_that_of_the_best_of_n_uniform_draws(n):
    """The largest of n uniforms has density n u^(n-1): KL to the uniform is the integral of it times its logarithm."""
    u = (np.arange(400_000) + 0.5) / 400_000
    density = n * u ** (n - 1)
    assert kl(n) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)
    assert sizes_up_to(16) == [1, 2, 4, 8, 16] and sizes_up_to(6) == [1, 2, 4, 6]


def test_a_curve_has_standard_errors_over_prompts_and_clusters():
    generator = np.random.default_rng(1)
    proxy, gold = generator.normal(size=(40, 8)), generator.normal(size=(40, 8))
    alone, together = curve(proxy, gold), curve(proxy, gold, [i // 4 for i in range(40)])
    assert [point["n"] for point in alone] == [1, 2, 4, 8] and alone[0]["kl"] == 0
    best = expected_best(proxy, gold, 4)
    assert alone[2]["gold"]["mean"] == pytest.approx(best.mean())
    assert alone[2]["gold"]["se"] == pytest.approx(best.std(ddof=1) / math.sqrt(40))
    assert together[2]["gold"]["n"] == 10 and "gold" not in curve(proxy, None)[0]


def test_a_curve_measured_on_sampled_answers(model, tokenizer):
    def shorter(prompts, texts):
        assert len(prompts) == len(texts) == 3 * 8
        return [-float(len(text)) for text in texts]

    found = measure_best_of_n(model, tokenizer, PROMPTS, shorter, shorter, n=8, max_new_tokens=8, temperature=1.0)
    assert (found["samples"], found["prompts"]) == (8, 3)
    means = [point["proxy"]["mean"] for point in found["points"]]
    assert means == sorted(means) and means[0] < means[-1]
    assert [point["gold"] for point in found["points"]] == [point["proxy"] for point in found["points"]]
    curve_of, d = found["fit"]["proxy"], np.sqrt([kl(n) for n in (1, 2, 4, 8)])
    design = np.stack([d, -(d**2)], axis=1)  # R = start + d (alpha - beta d), the normal equations
    alpha, beta = np.linalg.solve(design.T @ design, design.T @ (np.array(means) - means[0]))
    assert (curve_of["form"], curve_of["start"]) == ("best_of_n", means[0]) and 0 <= found["duplicates"] < 1
    assert (curve_of["alpha"], curve_of["beta"]) == pytest.approx((alpha, beta))
    again = measure_best_of_n(model, tokenizer, PROMPTS, shorter, n=8, max_new_tokens=8, temperature=1.0, batch_size=5)
    assert [point["proxy"] for point in again["points"]] == [point["proxy"] for point in found["points"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "best_of_n.n=1"),
        ({"prompts": [Prompt((Message("user", "cat " * 60),))]}, "none of 1 prompts leaves room"),
        ({"proxy": lambda _, texts: [math.nan] * len(texts)}, "proxy gives a score that is not finite"),
    ],
)
def test_what_cannot_be_measured(model, tokenizer, options, message):
    given = {"prompts": PROMPTS, "proxy": lambda _, texts: [0.0] * len(texts), "n": 2, "max_new_tokens": 2, **options}
    with pytest.raises(UserError, match=message):
        measure_best_of_n(model, tokenizer, **given)


def test_divergence_is_the_difference_of_log_probabilities_at_the_temperature(model, tokenizer):
    model = copy.deepcopy(model).eval()
    other = type(model)(model.config).eval()
    other.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in model.state_dict().items()})
    prompts = [tokenizer.encode_prompt(prompt.messages) for prompt in PROMPTS]
    rollout = generate(model, prompts, max_new_tokens=6, end_ids=tokenizer.end_ids, temperature=0.7, seed=3)
    found = divergence(model, other, rollout, 0.7, batch_size=2)
    for row, value in enumerate(found):
        start, end = int(rollout.prompt_lengths[row]), int(rollout.lengths[row])
        ids, expected = rollout.input_ids[row : row + 1, :end], 0.0
        with torch.no_grad():
            ours, theirs = ((net.logits(net(ids))[0].double() / 0.7).log_softmax(-1) for net in (model, other))
        for t in range(start - 1, end - 1):
            expected += float(ours[t, ids[0, t + 1]] - theirs[t, ids[0, t + 1]])
        assert value == pytest.approx(expected, abs=1e-4)
    assert divergence(model, model, rollout, 0.7) == pytest.approx(np.zeros(3), abs=1e-6)
