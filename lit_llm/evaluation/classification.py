"""How good yes/no predictions are, with standard errors by resampling clusters: numpy arrays of one value per item.

Sources: Hanley and McNeil 1982 (AUROC as the share of pairs ordered right, ties half); average precision as the step
integral of precision over recall; Youden 1950 (J = sensitivity + specificity - 1); Field and Welsh 2007 (the cluster
bootstrap: whole clusters are drawn with replacement).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_llm.evaluation.statistics import Estimate

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # of weights (D, n): how often each item counts in each of D draws -> (D,)


class Labels(NamedTuple):
    """Scores (n,), the higher the likelier positive, with what was right (n,), 0 or 1."""

    scores: Array
    positive: Array


def labels(scores: ArrayLike, positive: ArrayLike) -> Labels:
    return Labels(np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.float64))


def auroc(data: Labels) -> Statistic:
    """The share of pairs of a positive and a negative item of which the positive scores higher; ties are half."""
    order, starts = _descending(data.scores)
    positive = data.positive[order]

    def statistic(weights: Array) -> Array:
        up = np.add.reduceat(weights[:, order] * positive, starts, axis=1)
        down = np.add.reduceat(weights[:, order] * (1 - positive), starts, axis=1)
        below = down.sum(1, keepdims=True) - down.cumsum(1)
        return _divided((up * (below + 0.5 * down)).sum(1), up.sum(1) * down.sum(1))

    return statistic


def average_precision(data: Labels) -> Statistic:
    """sum_k (R_k - R_{k-1}) P_k over the thresholds, items of one score coming in together."""
    order, starts = _descending(data.scores)
    positive = data.positive[order]

    def statistic(weights: Array) -> Array:
        up = np.add.reduceat(weights[:, order] * positive, starts, axis=1)
        taken = np.add.reduceat(weights[:, order], starts, axis=1).cumsum(1)
        return _divided((up * _divided(up.cumsum(1), taken, 0.0)).sum(1), up.sum(1))

    return statistic


def balanced_accuracy(data: Labels, threshold: float) -> Statistic:
    """The mean of sensitivity and specificity; an item is called positive from ``threshold`` on."""
    called = (data.scores >= threshold).astype(np.float64)
    hits, rejections = called * data.positive, (1 - called) * (1 - data.positive)

    def statistic(weights: Array) -> Array:
        sensitivity = _divided(weights @ hits, weights @ data.positive)
        return 0.5 * (sensitivity + _divided(weights @ rejections, weights @ (1 - data.positive)))

    return statistic


def calibration_error(data: Labels, bins: int = 10) -> Statistic:
    """As ``statistics.expected_calibration_error``, the scores being probabilities."""
    place = np.minimum((data.scores * bins).astype(np.int64), bins - 1)
    member = (place[:, None] == np.arange(bins)).astype(np.float64) * (data.scores - data.positive)[:, None]

    def statistic(weights: Array) -> Array:
        return _divided(np.abs(weights @ member).sum(1), weights.sum(1))

    return statistic


def best_threshold(data: Labels) -> float:
    """The threshold of the largest balanced accuracy (Youden's J), midway to the next lower score.

    It does not depend on the share of positives, which reinforcement learning changes. 0.5 where one class is missing.
    """
    order, starts = _descending(data.scores)
    positive = data.positive[order]
    up, down = np.add.reduceat(positive, starts).cumsum(), np.add.reduceat(1 - positive, starts).cumsum()
    if up[-1] == 0 or down[-1] == 0:
        return 0.5
    values = data.scores[order][starts]
    best = int(np.argmax(up / up[-1] - down / down[-1]))
    return float(values[best] if best == len(values) - 1 else (values[best] + values[best + 1]) / 2)


def resampled(clusters: Sequence[Any], draws: int = 500, seed: int = 0) -> Array:
    """Weights (draws, n): how often each item is there when the clusters are drawn with replacement."""
    number: dict[Any, int] = {}
    index = np.asarray([number.setdefault(cluster, len(number)) for cluster in clusters], dtype=np.int64)
    count = len(number)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return times[:, index].astype(np.float64)


def estimate(statistic: Statistic, weights: Array, clusters: int) -> Estimate:
    """The statistic on all items, with its deviation over the draws ``weights`` (``resampled``) as standard error."""
    value = float(statistic(np.ones((1, weights.shape[1])))[0])
    found = statistic(weights)
    found = found[np.isfinite(found)]
    return Estimate(value, float(found.std(ddof=1)) if clusters > 1 and len(found) > 1 else math.nan, clusters)


def difference(one: Statistic, other: Statistic) -> Statistic:
    """one - other, on the same draws."""
    return lambda weights: one(weights) - other(weights)


def _descending(scores: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order from the highest score down, and where in it each distinct score begins."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])


def _divided(above: Array, below: Array, empty: float = math.nan) -> Array:
    found: Array = np.divide(above, below, out=np.full(np.shape(above), empty), where=below > 0)
    return found
