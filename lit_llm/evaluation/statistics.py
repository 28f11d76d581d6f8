"""How sure a number is: standard errors, paired tests and calibration, on numpy arrays of one value per item.

Sources: Cochran, Sampling Techniques (ratio estimates, delta method); Cameron and Miller 2015 (clustered errors, CR1);
McNemar 1947, exact form; Efron and Tibshirani 1993 (bootstrap); Wilson 1927; Holm 1979; Brier 1950; Guo et al. 2017
(expected calibration error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean (or ratio) with its standard error over n independent items (clusters, where there are clusters).

    ``se`` is nan where one item cannot tell.
    """

    mean: float
    se: float
    n: int


class PairedTest(NamedTuple):
    """after - before on the same items. ``low`` and ``high`` are the 95% bounds, p is two-sided."""

    difference: float
    se: float
    low: float
    high: float
    p: float
    n: int


def mean(values: ArrayLike, clusters: Sequence[Any] | None = None) -> Estimate:
    """The mean of (n,) values. Values of one cluster (a document, a prompt) are not taken as independent."""
    x = np.asarray(values, dtype=np.float64)
    return ratio(x, np.ones_like(x), clusters)


def ratio(numerators: ArrayLike, denominators: ArrayLike, clusters: Sequence[Any] | None = None) -> Estimate:
    """sum a / sum b with the delta method's error: sqrt(n/(n-1) sum (a_i - R b_i)^2) / sum b, summed within clusters.

    Bits per byte is such a ratio: long documents weigh more, and numerator and denominator vary together.
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if clusters is not None:
        a, b = _by_cluster(a, clusters), _by_cluster(b, clusters)
    n, total = len(a), float(b.sum())
    if n == 0 or total == 0:
        return Estimate(math.nan, math.nan, n)
    value = float(a.sum()) / total
    if n == 1:
        return Estimate(value, math.nan, 1)
    residual = a - value * b
    return Estimate(value, math.sqrt(n / (n - 1) * float(residual @ residual)) / total, n)


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Exact two-sided p that two yes/no outcomes on the same items differ: binomial(1/2) on the pairs that changed."""
    x, y = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    gained, lost = int((~x & y).sum()), int((x & ~y).sum())
    changed = gained + lost
    tail = sum(math.comb(changed, i) for i in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * tail / 2**changed))


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    denominators: ArrayLike | None = None,
    clusters: Sequence[Any] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """after - before (means, or ratios over the shared ``denominators``), resampling items (or clusters) with both.

    p = 2 min(P(d* <= 0), P(d* >= 0)), one added above and below; where no draw changes sign, so that the draws can say
    no more than p < 2 / resamples, the normal tail of difference / se if that is smaller.
    """
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    weight = np.ones_like(change) if denominators is None else np.asarray(denominators, dtype=np.float64)
    estimate = ratio(change, weight, clusters)
    if clusters is not None:
        change, weight = _by_cluster(change, clusters), _by_cluster(weight, clusters)
    if len(change) < 2 or not change.any():
        return PairedTest(estimate.mean, estimate.se, estimate.mean, estimate.mean, 1.0, len(change))
    draws = _resampled_ratios(change, weight, resamples, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    if tail == 0 and estimate.se > 0:
        p = min(p, math.erfc(abs(estimate.mean) / estimate.se / math.sqrt(2)))
    return PairedTest(estimate.mean, estimate.se, float(low), float(high), p, len(change))


def exchange_noise(
    before: ArrayLike,
    after: ArrayLike,
    denominators: ArrayLike | None = None,
    clusters: Sequence[Any] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> float:
    """The difference that swapping the two models at random, item by item, exceeds in 5% of the draws."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    total = float(len(change) if denominators is None else np.sum(denominators))
    if clusters is not None:
        change = _by_cluster(change, clusters)
    if len(change) == 0 or total == 0:
        return 0.0
    signs = np.random.default_rng(seed).integers(0, 2, size=(resamples, len(change))) * 2.0 - 1.0
    return float(np.quantile(np.abs(signs @ change) / total, 0.95))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having made all these tests (Holm's step-down), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def wilson_interval(successes: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The bounds of a share: right also near 0 and 1, where the normal interval leaves [0, 1]. n = 0 gives (0, 1).

    Neither need be whole: where items are not independent, n is the number of independent ones that would know as much.
    """
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)  # exact at the ends


def expected_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10) -> float:
    """sum over equal-width bins of (share of items) |mean p - mean y|; 1.0 belongs to the last bin."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if len(p) == 0:
        return math.nan
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=p - y, minlength=bins)  # in each bin: items x (mean p - mean y)
    return float(np.abs(gaps).sum()) / len(p)


def _by_cluster(values: Array, clusters: Sequence[Any]) -> Array:
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters for {len(values)} values")
    number: dict[Any, int] = {}
    index = np.asarray([number.setdefault(cluster, len(number)) for cluster in clusters], dtype=np.int64)
    return np.asarray(np.bincount(index, weights=values, minlength=len(number)), dtype=np.float64)


def _resampled_ratios(change: Array, weight: Array, resamples: int, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    step = max(1, 2_000_000 // len(change))  # rows of indices at a time: bounded memory
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        index = generator.integers(0, len(change), size=(rows, len(change)))
        draws[start : start + rows] = change[index].sum(1) / np.maximum(weight[index].sum(1), 1e-300)
    return draws
