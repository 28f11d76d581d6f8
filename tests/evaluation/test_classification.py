"""Measures of yes/no predictions: against another library, against loops, and their errors against repeated samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from lit_llm.evaluation import classification as by
from lit_llm.evaluation.prevalence import corrected_interval, interval, rogan_gladen
from lit_llm.evaluation.statistics import Estimate, expected_calibration_error, wilson_interval

torch = pytest.importorskip("torch")


def drawn(n=80, seed=0, ties=7):
    generator = np.random.default_rng(seed)
    positive = (generator.random(n) < 0.4).astype(float)
    scores = np.round(np.clip(0.3 * positive + generator.random(n) * 0.7, 0, 1) * ties) / ties
    return by.labels(scores, positive)


def value(statistic, n, weights=None):
    return statistic(np.ones((1, n)) if weights is None else weights)[0]


@pytest.mark.parametrize("ties", [5, 10_000])
def test_auroc_and_average_precision_are_those_of_another_library(ties):
    data = drawn(ties=ties)
    scores, target = torch.tensor(data.scores), torch.tensor(data.positive).long()
    assert value(by.auroc(data), 80) == pytest.approx(binary_auroc(scores, target).item(), abs=1e-6)
    expected = binary_average_precision(scores, target).item()
    assert value(by.average_precision(data), 80) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_weight_of_three_is_the_item_thrice(rows):
    """What the bootstrap rests on: every statistic of weights is that of the items repeated as often."""
    scores, positive, times = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    once, thrice = by.labels(scores / 4, positive), [np.repeat(x, times.astype(int)) for x in (scores / 4, positive)]
    for statistic in (by.auroc, by.average_precision, lambda d: by.balanced_accuracy(d, 0.5), by.calibration_error):
        weighted = value(statistic(once), 0, times[None])
        if len(thrice[0]):
            assert weighted == pytest.approx(value(statistic(by.labels(*thrice)), len(thrice[0])), nan_ok=True)
        else:
            assert math.isnan(weighted)


def test_balanced_accuracy_and_calibration_by_hand():
    data = by.labels([0.9, 0.4, 0.2, 0.6, 0.1], [1, 1, 0, 0, 0])
    assert value(by.balanced_accuracy(data, 0.5), 5) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert value(by.calibration_error(data), 5) == pytest.approx(expected_calibration_error(*data))


def test_the_threshold_has_the_largest_balanced_accuracy_of_all():
    for seed in range(5):
        data = drawn(seed=seed)
        best = value(by.balanced_accuracy(data, by.best_threshold(data)), 80)
        everywhere = [value(by.balanced_accuracy(data, t), 80) for t in np.linspace(0, 1.01, 300)]
        assert best == pytest.approx(max(everywhere))
    assert by.best_threshold(by.labels([0.1, 0.9], [1, 1])) == 0.5


def test_standard_errors_are_the_spread_of_repeated_samples():
    """Items of a cluster are copies: errors that took them for independent would be half as large."""

    def sample(seed, prompts=60, copies=4):
        data = drawn(prompts, seed, ties=10_000)
        return by.labels(np.repeat(data.scores, copies), np.repeat(data.positive, copies))

    spread = np.std([value(by.auroc(sample(seed)), 240) for seed in range(200)])
    clusters = np.repeat(np.arange(60), 4).tolist()
    errors = [by.estimate(by.auroc(sample(s)), by.resampled(clusters, 300), 60).se for s in range(8)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.25)


# The corrected rate


def test_a_corrected_rate_is_the_true_one_when_sensitivity_and_specificity_are_known():
    true, sensitivity, specificity = 0.2, 0.7, 0.9
    found = Estimate(true * sensitivity + (1 - true) * (1 - specificity), 0.0, 100)
    corrected = rogan_gladen(found, Estimate(sensitivity, 0.0, 50), Estimate(specificity, 0.0, 50))
    assert corrected.mean == pytest.approx(true) and corrected.se == pytest.approx(0)


def test_the_corrected_rate_s_error_is_that_of_repeated_studies():
    generator, true, se, sp, n, m = np.random.default_rng(0), 0.3, 0.8, 0.85, 400, 300
    rate = generator.binomial(n, true * se + (1 - true) * (1 - sp), 4000) / n
    found_se, found_sp = generator.binomial(m, se, 4000) / m, generator.binomial(m, sp, 4000) / m
    spread = np.std((rate + found_sp - 1) / (found_se + found_sp - 1))
    error = rogan_gladen(*(Estimate(p, math.sqrt(p * (1 - p) / k), k) for p, k in ((0.345, n), (se, m), (sp, m)))).se
    assert error == pytest.approx(spread, rel=0.05)


def test_a_classifier_no_better_than_chance_corrects_nothing_and_shares_stay_shares():
    half = Estimate(0.5, 0.01, 100)
    assert rogan_gladen(half, half, half) is None
    below = rogan_gladen(Estimate(0.05, 0.01, 100), Estimate(0.8, 0.02, 50), Estimate(0.9, 0.02, 50))
    assert below.mean == 0.0 and below.se > 0
    assert interval(Estimate(0.0, 0.0, 50)) == (0.0, pytest.approx(0.0713, abs=1e-4)), "none of 50 is not never"


def test_intervals_of_rare_shares_are_wilson_s_with_as_many_items_as_are_independent():
    share = Estimate(0.02, math.sqrt(0.02 * 0.98 / 100), 100)
    assert interval(share) == pytest.approx(wilson_interval(2, 100)) and interval(share)[0] > 0  # Wald's is below 0
    clustered = Estimate(0.02, share.se * math.sqrt(2), 100)  # 100 answers that know as much as 50
    assert interval(clustered) == pytest.approx(wilson_interval(1, 50))
    assert interval(Estimate(0.5, math.nan, 1)) == interval(Estimate(math.nan, math.nan, 0)) == (0.0, 1.0)


@pytest.mark.parametrize("true", [0.02, 0.1, 0.4])
def test_the_corrected_interval_covers_the_true_rate(true):
    generator, se, sp, n, m, k = np.random.default_rng(1), 0.7, 0.9, 120, 60, 200

    def studied(p, size):
        found = generator.binomial(size, p) / size
        return Estimate(found, math.sqrt(found * (1 - found) / size), size)

    found = [
        corrected_interval(studied(true * se + (1 - true) * (1 - sp), n), studied(se, m), studied(sp, k))
        for _ in range(2000)
    ]
    assert np.mean([low <= true <= high for low, high in found]) == pytest.approx(0.955, abs=0.02)
    assert all(0 <= low <= high <= 1 for low, high in found)


def test_a_corrected_interval_without_knowledge_is_all_there_is():
    half = Estimate(0.5, 0.01, 100)
    assert corrected_interval(half, half, half) == (0.0, 1.0)
    assert corrected_interval(half, Estimate(math.nan, math.nan, 0), half) == (0.0, 1.0)
