"""Coefficients of agreement between rankings, each the same in whatever order rankings, answers and people are stored.

Sources: Krippendorff, Content Analysis (2004), ch. 11 (alpha; computed by the ``krippendorff`` package); Kendall and
Babington Smith 1939, with the correction for ties of Siegel and Castellan 1988 (W); Kendall 1945 (tau-b; scipy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lit_llm.feedback.store import pair_order

Array = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True)
class Ranking:
    """One person's ranking of a task's answers; what was not ranked is not in it."""

    task: str
    annotator: str
    ranks: Mapping[str, int]  # answer -> rank; 1 is best, equal is a tie
    places: Mapping[str, int] = field(default_factory=dict)  # answer -> where it was shown, the least is first


def by_task(rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    """Tasks in order of their names, each with its rankings in order of their annotators."""
    found: dict[str, list[Ranking]] = {}
    for ranking in sorted(rankings, key=lambda r: (r.task, r.annotator)):
        found.setdefault(ranking.task, []).append(ranking)
    return found


def shared(rankings: Sequence[Ranking]) -> tuple[list[str], Array]:
    """The k answers that all m annotators of a task ranked, and their ranks (m, k); those of ties are averaged.

    Ranks among the shared answers alone: the third of three and the second of two may be the same opinion. Tied
    answers take the mean of their places, so that a tie above an answer does not lift it.
    """
    answers = sorted(set.intersection(*(set(r.ranks) for r in rankings)))
    table = [stats.rankdata([r.ranks[a] for a in answers]) for r in rankings] if answers else []
    return answers, np.asarray(table, dtype=np.float64).reshape(len(rankings), len(answers))


def kendalls_w(table: Array) -> float:
    """W of (m, k) ranks (averaged at ties): 12 S / (m^2 (k^3 - k) - m sum T), T = sum over ties of (t^3 - t).

    S is the sum of squared deviations of the k rank sums. 1: all order alike; nan: nobody orders anything. With m
    annotators who order at random the expectation is 1/m.
    """
    m, k = table.shape
    sums = table.sum(axis=0)
    ties = sum(int(t) ** 3 - int(t) for row in table for t in np.unique(row, return_counts=True)[1])
    most = m * m * (k**3 - k) - m * ties
    return 12 * float(((sums - sums.mean()) ** 2).sum()) / most if most else math.nan


def tau_b(one: Ranking, two: Ranking) -> float:
    """Kendall's tau-b over the answers that both ranked; nan where one of them ties all."""
    answers = sorted(set(one.ranks) & set(two.ranks))
    if len(answers) < 2:
        return math.nan
    left, right = [one.ranks[a] for a in answers], [two.ranks[a] for a in answers]
    if len(set(left)) < 2 or len(set(right)) < 2:
        return math.nan
    return float(stats.kendalltau(left, right).statistic)


def same_order(one: Mapping[str, int], two: Mapping[str, int], *, ties_differ: bool = False) -> list[float]:
    """1 or 0 for each pair of answers that both ranked and neither ties.

    ``ties_differ``: a pair that ``two`` alone ties is 0.
    """
    answers = sorted(set(one) & set(two))
    alike, total = pair_order.same_order([one[a] for a in answers], [two[a] for a in answers], ties_differ=ties_differ)
    return [1.0] * alike + [0.0] * (total - alike)


def rank_units(rankings: Iterable[Ranking]) -> list[list[list[float]]]:
    """For each task its units (answers that all its annotators ranked), each with the annotators' ranks."""
    tables = (shared(members)[1] for members in by_task(rankings).values() if len(members) > 1)
    return [table.T.tolist() for table in tables if table.shape[1] > 1]


def pair_units(rankings: Iterable[Ranking]) -> list[list[list[float]]]:
    """For each task its units: (a, b) **and** (b, a) for every pair of answers, with 1 (first better), -1, or 0 (tie).

    With one orientation alone the values' distribution, and with it chance agreement, would depend on which answer of
    a pair happens to be stored first: alpha would fall far below what it is when the better one usually is.
    """
    tasks = []
    for members in by_task(rankings).values():
        answers = sorted({answer for r in members for answer in r.ranks})
        units = []
        for a, b in combinations(answers, 2):
            values = [float(np.sign(r.ranks[b] - r.ranks[a])) for r in members if a in r.ranks and b in r.ranks]
            if len(values) > 1:
                units += [values, [-value for value in values]]
        if units:
            tasks.append(units)
    return tasks


def alpha(tasks: Sequence[Sequence[Sequence[float]]], level: Level) -> float:
    """Krippendorff's alpha of the units of all tasks; nan without two different values in units of two or more."""
    counts, domain = _counts(tasks)
    if len(domain) < 2:
        return math.nan
    whole = np.concatenate(counts).astype(np.int64)
    return float(krippendorff.alpha(value_counts=whole, value_domain=domain, level_of_measurement=level))


def alpha_bootstrap(
    tasks: Sequence[Sequence[Sequence[float]]], level: Level, *, resamples: int = 500, seed: int = 0
) -> Array:
    """Alpha of resampled tasks (a task's units stay together): (resamples,), less those without two values."""
    counts, domain = _counts(tasks)
    if len(domain) < 2 or len(counts) < 2:
        return np.empty(0)
    matrices = np.stack([_coincidences(task) for task in counts])
    draws = np.random.default_rng(seed).multinomial(len(counts), [1 / len(counts)] * len(counts), size=resamples)
    found = [alpha_of(np.tensordot(draw.astype(np.float64), matrices, axes=1), level) for draw in draws]
    return np.asarray([value for value in found if not math.isnan(value)])


def alpha_of(coincidences: Array, level: Level) -> float:
    """1 - (n - 1) sum o_cd d_cd / sum n_c n_d d_cd of a coincidence matrix (V, V) over ordered values.

    d is 1 for different values (nominal), or (sum of n_g from c to d - (n_c + n_d) / 2)^2 (ordinal).
    """
    n = coincidences.sum(axis=0)
    distances = 1.0 - np.eye(len(n))
    if level == "ordinal":
        middle = np.cumsum(n) - n / 2
        distances = (middle[:, None] - middle[None, :]) ** 2
    expected = float((np.outer(n, n) * distances).sum())
    return 1 - (float(n.sum()) - 1) * float((coincidences * distances).sum()) / expected if expected else math.nan


def between(
    rankings: Iterable[Ranking], value: Callable[[Ranking, Ranking], Sequence[float]]
) -> list[tuple[float, str]]:
    """(value, task) of every two annotators of a task; what is nan is left out."""
    return [
        (found, task)
        for task, members in by_task(rankings).items()
        for one, two in combinations(members, 2)
        for found in value(one, two)
        if not math.isnan(found)
    ]


def first_is_best(ranking: Ranking) -> tuple[float, float]:
    """(credit, chance): whether the answer shown first is the best; of b tied best ones it has 1/b of the credit."""
    first = min(ranking.ranks, key=lambda answer: ranking.places[answer])
    best = [answer for answer, rank in ranking.ranks.items() if rank == min(ranking.ranks.values())]
    return (1 / len(best) if first in best else 0.0), 1 / len(ranking.ranks)


def _counts(tasks: Sequence[Sequence[Sequence[float]]]) -> tuple[list[Array], list[float]]:
    """How often each value was given in each unit: (units, V) a task; and the V values in order."""
    domain = sorted({value for units in tasks for unit in units for value in unit})
    column = {value: place for place, value in enumerate(domain)}
    counts = []
    for units in tasks:
        table = np.zeros((len(units), len(domain)))
        for row, unit in enumerate(units):
            np.add.at(table[row], [column[value] for value in unit], 1.0)
        counts.append(table)
    return counts, domain


def _coincidences(counts: Array) -> Array:
    """Pairs of values within units, each unit's weighted by 1 / (values - 1): (V, V)."""
    weights = 1 / np.maximum(counts.sum(axis=1) - 1, 1)
    matrix = np.einsum("u,uc,ud->cd", weights, counts, counts)
    return np.asarray(matrix - np.diag((weights[:, None] * counts).sum(axis=0)))
