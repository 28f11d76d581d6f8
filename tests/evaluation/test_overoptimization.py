"""The curve R = d (alpha - beta ln d) is found again from its own values, and where it has its peak."""

import math

import numpy as np
import pytest

from lit_llm.evaluation.best_of_n import kl, sizes_up_to
from lit_llm.evaluation.overoptimization import fit

D = np.linspace(0, 4, 15)


def rewards(alpha, beta, start=0.0):
    return [start + (d * (alpha - beta * math.log(d)) if d else 0.0) for d in D]


@pytest.mark.parametrize("known", [True, False])
def test_coefficients_are_found_again(known):
    found = fit(D, rewards(0.9, 0.4, 1.5), start=1.5 if known else None)
    assert (found.alpha, found.beta, found.start) == pytest.approx((0.9, 0.4, 1.5), abs=1e-9)
    assert found.r2 == pytest.approx(1) and found.rmse == pytest.approx(0, abs=1e-9) and found.n == 15
    assert found.peak == pytest.approx(math.exp(0.9 / 0.4 - 1))
    assert found(2.0) == pytest.approx(1.5 + 2 * (0.9 - 0.4 * math.log(2)))
    heights = [found(d) for d in np.linspace(0.01, 12, 2000)]
    assert np.linspace(0.01, 12, 2000)[int(np.argmax(heights))] == pytest.approx(found.peak, abs=0.02)


@pytest.mark.parametrize("known", [True, False])
def test_best_of_n_has_its_own_form(known):
    """R = d (alpha - beta d), equation 1 of arXiv:2210.10760, at the exact d of n = 1, 2, 4 ... 64."""
    distances = [math.sqrt(kl(n)) for n in sizes_up_to(64)]
    values = [0.3 + d * (1.1 - 0.35 * d) for d in distances]
    found = fit(distances, values, 0.3 if known else None, "best_of_n")
    assert (found.alpha, found.beta, found.start) == pytest.approx((1.1, 0.35, 0.3), abs=1e-9)
    assert found.r2 == pytest.approx(1) and found.peak == pytest.approx(1.1 / 0.7)
    assert found(1.3) == pytest.approx(0.3 + 1.3 * (1.1 - 0.35 * 1.3)) and found.as_plain()["form"] == "best_of_n"
    assert fit(distances, values, 0.3).r2 < 1 - 1e-6  # the form of training does not fit it
    assert fit(distances, [0.3 - d for d in distances], 0.3, "best_of_n").peak is None


def test_noise_lowers_the_quality_of_the_fit():
    noise = np.random.default_rng(0).normal(0, 0.3, len(D))
    found = fit(D, np.array(rewards(0.9, 0.4)) + noise)
    assert 0.2 < found.r2 < 0.99 and 0.1 < found.rmse < 0.5
    design = np.stack([D, [-d * math.log(d) if d else 0.0 for d in D], np.ones_like(D)], 1)
    expected = np.linalg.solve(design.T @ design, design.T @ (np.array(rewards(0.9, 0.4)) + noise))
    assert (found.alpha, found.beta, found.start) == pytest.approx(tuple(expected), rel=1e-6)


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, 1.0), (1.0, 2.0)], [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]])
def test_too_few_points_are_no_curve(points):
    d, r = zip(*points, strict=True) if points else ((), ())
    assert fit(d, r) is None


def test_a_reward_that_only_rises_has_no_peak():
    assert fit(D, rewards(1.0, 0.0), start=0.0).peak is None or fit(D, rewards(1.0, 0.0), start=0.0).peak > 1e6
    assert fit(D, [2.0] * len(D), start=2.0).as_plain()["r2"] is None
