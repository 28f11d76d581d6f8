"""The ledger: what every stage gained and what it forgot, on every earlier stage's held-out sets, item by item.

Each entry compares a stage's model with the one it started from on the same items. A change is called gained or lost
only when a paired test, adjusted for the number of tests made, does not take it for chance and it is larger than the
noise floor; else it is called the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.evaluation.scores import BINARY, Measured, Scores, as_plain, direction
from lit_llm.evaluation.statistics import Estimate, exchange_noise, holm, mcnemar, paired_bootstrap, ratio
from lit_llm.runtime.atomic_files import write_json

LEVEL = 0.05  # of the adjusted tests
WORST = 3  # items that are named


@dataclass(frozen=True)
class Pair:
    """One measure of two models on the items that both answered."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    before: np.ndarray[Any, np.dtype[np.float64]]
    after: np.ndarray[Any, np.dtype[np.float64]]
    weights: np.ndarray[Any, np.dtype[np.float64]]
    clusters: list[str]


@dataclass
class Ledger:
    """``scores[stage][set]``: a stage's evaluation; ``parents[stage]``: the stage it started from, or None.

    ``repeats[stage][set]`` are second evaluations of the same model with another sampling seed: what they differ by is
    noise, and no change smaller than that counts.
    """

    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    repeats: dict[str, dict[str, Scores]] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)  # of lm-evaluation-harness: ``task_changes``

    def add(self, stage: str, parent: str | None, scores: Iterable[Scores], repeats: Iterable[Scores] = ()) -> None:
        self.parents[stage] = parent
        self.scores[stage] = {one.name: one for one in scores}
        self.repeats[stage] = {one.name: one for one in repeats}

    def entries(self) -> list[dict[str, Any]]:
        """One entry for each stage, set and measure, with the change from the stage's parent where there is one."""
        found = [
            self._entry(stage, name, measure)
            for stage, sets in self.scores.items()
            for name, scores in sets.items()
            for measure in scores.items
        ]
        tested = [entry for entry in found if entry["p"] is not None and direction(entry["metric"])]
        for entry, adjusted in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_adjusted"] = adjusted
            entry["verdict"] = verdict(entry, direction(entry["metric"]))
        return found

    def _entry(self, stage: str, name: str, measure: str) -> dict[str, Any]:
        after = self.scores[stage][name]
        entry: dict[str, Any] = {"stage": stage, "set": name, "metric": measure, "against": self.parents[stage]}
        entry |= {"after": as_plain(after.estimate(measure)), "before": None, "change": None}
        entry |= {"p": None, "p_adjusted": None, "test": None, "noise_floor": None, "verdict": None}
        before = self.scores.get(self.parents[stage] or "", {}).get(name)
        if before is None or measure not in before.items:
            return entry
        pair = paired(before, after, measure)
        if not len(pair.before):
            return entry
        binary, noise = measure.rsplit("/", 1)[-1] in BINARY, self._seed_noise(name, measure)
        entry |= compare(pair, binary=binary, good=direction(measure), seed_noise=noise)
        return entry | {"worst": worst(pair, direction(measure), after.sources)}

    def _seed_noise(self, name: str, measure: str) -> float:
        """The largest difference on this set between two evaluations of one model that differ by the seed alone."""
        gaps = [0.0]
        for stage, sets in self.repeats.items():
            first, second = self.scores[stage].get(name), sets.get(name)
            if first is not None and second is not None and measure in first.items and measure in second.items:
                gaps.append(abs(first.estimate(measure).mean - second.estimate(measure).mean))
        return max(gap for gap in gaps if math.isfinite(gap))

    def as_json(self) -> dict[str, Any]:
        """{"stages", "parents", "level", "entries", "tasks"}; an entry says stage, set, metric, against, before, after,
        change (each mean, se, n), p, p_adjusted, test, noise_floor, verdict, improved, worsened (counts of items),
        worst (item, source, change of those that lost most)."""
        told = {"stages": list(self.scores), "parents": self.parents, "level": LEVEL, "entries": self.entries()}
        return told | {"tasks": self.tasks}

    def write(self, folder: str | Path) -> Path:
        """Writes ``ledger.json``, and ``ledger_items/<stage>/<set>.json`` with every item's scores and answers."""
        folder = Path(folder)
        for stage, sets in self.scores.items():
            for name, scores in sets.items():
                scores.save(folder / "ledger_items" / stage / f"{name}.json")
        path = folder / "ledger.json"
        write_json(path, self.as_json())
        return path


def evaluate_chain(
    parents: Mapping[str, str | None],
    sets_of: Mapping[str, Sequence[str]],
    evaluate: Callable[[str, str], Scores | None],
) -> Ledger:
    """Every stage on its own held-out sets and on those of all stages before it, and on those of the stages that
    start from it, whose change needs a before.

    Args:
        parents: the stage that each one starts from, or None; in the order in which they were trained.
        sets_of: the names of each stage's sets.
        evaluate: scores of (stage, set); None where the model cannot take the set.
    """
    ledger, earlier = Ledger(), list[str]()
    for stage, parent in parents.items():
        earlier.append(stage)
        reach = earlier + [other for other, its_parent in parents.items() if its_parent == stage]
        names = dict.fromkeys(name for other in reach for name in sets_of.get(other, ()))
        found = [evaluate(stage, name) for name in names]
        ledger.add(stage, parent, [scores for scores in found if scores is not None])
    return ledger


def paired(before: Scores, after: Scores, measure: str) -> Pair:
    """The items that both measured, in the same order."""
    one, two = _by_number(before.items[measure]), _by_number(after.items[measure])
    numbers = sorted(set(one) & set(two))
    table = np.array([(one[n][0], two[n][0], one[n][1], two[n][1]) for n in numbers], dtype=np.float64)
    old, new, old_weights, weights = table.reshape(-1, 4).T
    if not np.allclose(old_weights, weights):
        # Another tokenizer: per token or per pair sums do not pair up, so each item counts as its own mean.
        old, new, weights = old / np.maximum(old_weights, 1e-12), new / np.maximum(weights, 1e-12), np.ones_like(new)
    return Pair(np.array(numbers, dtype=np.int64), old, new, weights, [after.clusters[n] for n in numbers])


def compare(pair: Pair, *, binary: bool, good: int, seed_noise: float = 0.0) -> dict[str, Any]:
    """Before, after and their difference on the items of a pair, the test and the noise floor.

    ``binary``: every item is 0 or 1. ``good``: 1 where more is better, -1 where less is, 0 where neither.
    """
    test = paired_bootstrap(pair.before, pair.after, pair.weights, pair.clusters)
    name, p = "paired bootstrap", test.p
    independent = len(set(pair.clusters)) == len(pair.clusters)
    if binary and independent:
        name, p = "McNemar, exact", mcnemar(pair.before, pair.after)
    floor = max(seed_noise, exchange_noise(pair.before, pair.after, pair.weights, pair.clusters))
    better = (pair.after - pair.before) * (good or 1)
    return {
        "before": as_plain(ratio(pair.before, pair.weights, pair.clusters)),
        "change": as_plain(Estimate(test.difference, test.se, test.n)),
        "low": test.low,
        "high": test.high,
        "p": p,
        "test": name,
        "noise_floor": floor,
        "improved": int((better > 0).sum()),
        "worsened": int((better < 0).sum()),
    }


def worst(pair: Pair, good: int, sources: Mapping[int, str]) -> list[dict[str, Any]]:
    """The ``WORST`` items that lost most, the most first, with the place in the data that each is from."""
    lost = (pair.before - pair.after) * good / np.maximum(pair.weights, 1e-12)
    order = [int(n) for n in np.argsort(-lost, kind="stable")[:WORST] if lost[n] > 0]
    return [
        {
            "item": int(pair.numbers[n]),
            "source": sources.get(int(pair.numbers[n]), ""),
            "change": float(-lost[n] * good),
        }
        for n in order
    ]


def verdict(entry: Mapping[str, Any], good: int) -> str:
    """gained, lost or the same. ``good``: as ``compare``'s, and not 0."""
    change = entry["change"]["mean"] or 0.0
    if entry["p_adjusted"] >= LEVEL or abs(change) <= entry["noise_floor"]:
        return "same"
    return "gained" if change * good > 0 else "lost"


def _by_number(found: Measured) -> dict[int, tuple[float, float]]:
    return {
        int(n): (float(v), float(w))
        for n, v, w in zip(found.numbers, found.values, found.weights, strict=True)
        if w > 0
    }
