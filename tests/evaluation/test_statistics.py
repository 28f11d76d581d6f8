"""Invariant: each figure equals an independent computation of it, or covers the truth as often as it says."""

import math

import numpy as np
import pytest

from lit_llm.evaluation import statistics as st


def test_mean_and_standard_error():
    x = [1.0, 4.0, 2.0, 7.0]
    got = st.mean(x)
    assert got.mean == 3.5 and got.n == 4
    assert got.se == pytest.approx(np.std(x, ddof=1) / 2)
    assert math.isnan(st.mean([5.0]).se) and math.isnan(st.mean([]).mean)


def test_ratio_error_is_what_repeated_sampling_shows():
    generator = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(1500):
        b = generator.gamma(2.0, 50.0, size=80)  # document lengths
        a = 1.7 * b + generator.normal(0, 1, 80) * np.sqrt(b) * 3  # bits: noisier in long documents
        got = st.ratio(a, b)
        ratios.append(got.mean)
        errors.append(got.se)
    assert np.mean(ratios) == pytest.approx(1.7, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.06)


def test_clusters_are_summed_before_the_error():
    values, clusters = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0], ["a", "a", "b", "c", "c", "c"]
    got = st.mean(values, clusters)
    assert got.mean == pytest.approx(4 / 6) and got.n == 3
    m = 4 / 6
    residuals = [2 * (1 - m), 1 - m, 2 * (0 - m) + (1 - m)]
    assert got.se == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 6)
    repeated = st.mean(np.repeat([0.0, 1.0, 3.0, 2.0], 5), np.repeat(range(4), 5))
    assert repeated.se == pytest.approx(st.mean([0.0, 1.0, 3.0, 2.0]).se)  # copies tell nothing new
    with pytest.raises(ValueError, match="2 clusters for 3"):
        st.mean([1.0, 2.0, 3.0], [0, 1])


def test_mcnemar_against_counting_every_outcome():
    before = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    after = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 1])  # one lost, five gained
    changed, worse = 6, 0
    for outcome in range(2**changed):  # all equally likely under the null
        heads = bin(outcome).count("1")
        worse += abs(heads - changed / 2) >= abs(1 - changed / 2)
    assert st.mcnemar(before, after) == pytest.approx(worse / 2**changed)
    assert st.mcnemar([1, 0], [1, 0]) == 1.0


def test_paired_bootstrap_sees_a_small_shift_that_unpaired_errors_hide():
    generator = np.random.default_rng(1)
    before = generator.normal(0, 5, 100)
    after = before + 0.2 + generator.normal(0, 0.3, 100)
    got = st.paired_bootstrap(before, after, resamples=1000)
    assert got.p < 0.01 and got.low > 0 and got.low < got.difference < got.high
    assert got.se == pytest.approx(np.std(after - before, ddof=1) / 10)
    assert st.mean(before).se > got.difference  # unpaired, nothing would be seen
    assert st.paired_bootstrap(before, before).p == 1.0


def test_paired_bootstrap_is_calibrated_under_the_null():
    generator = np.random.default_rng(2)
    small = 0
    for trial in range(200):
        x = generator.normal(0, 1, 40)
        small += st.paired_bootstrap(x, x + generator.normal(0, 1, 40), resamples=200, seed=trial).p < 0.1
    assert 0.05 < small / 200 < 0.19


def test_paired_bootstrap_of_a_ratio_uses_the_weights():
    before, after, weight = [10.0, 100.0], [5.0, 100.0], [10.0, 100.0]
    assert st.paired_bootstrap(before, after, weight).difference == pytest.approx(-5 / 110)


def test_exchange_noise_is_the_null_quantile():
    generator = np.random.default_rng(3)
    before, change = np.zeros(400), generator.normal(0, 2, 400)
    expected = 1.96 * 2 / math.sqrt(400)
    assert st.exchange_noise(before, change) == pytest.approx(expected, rel=0.15)
    assert st.exchange_noise(before, before) == 0.0


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([]) == []


def test_wilson_interval_against_its_defining_equation():
    for successes, n in ((0, 10), (3, 10), (10, 10), (70, 200)):
        low, high = st.wilson_interval(successes, n)
        for bound in (low, high):
            if 1e-9 < bound < 1 - 1e-9:  # the bound p solves |p_hat - p| = z sqrt(p (1 - p) / n)
                assert abs(successes / n - bound) == pytest.approx(
                    1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-6
                )
        assert 0 <= low <= successes / n <= high <= 1
    assert st.wilson_interval(0, 0) == (0.0, 1.0)


def test_calibration_by_hand():
    p, y = [0.95, 0.95, 0.95, 0.95, 0.35, 0.35], [1, 1, 1, 0, 0, 1]
    assert st.expected_calibration_error(p, y) == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.15)
    assert st.expected_calibration_error([1.0, 0.0], [1, 0]) == 0.0
