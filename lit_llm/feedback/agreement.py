"""How far annotators agree: shares of the pairs of answers that two of them order alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from lit_llm.evaluation.statistics import Estimate, mean


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``agreement``: between annotators of one prompt; ``with_rule``: of each with the rule. {"mean", "se", "n"}."""
    between: list[tuple[float, str]] = []
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    with_rule: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        key = json.dumps(row["prompt"])
        by_prompt.setdefault(key, []).append(row)
        worth = [-value for value in row["rule"]]
        with_rule.setdefault(row["annotator"], []).extend((same, key) for same in _same_order(row["ranking"], worth))
    for key, members in by_prompt.items():
        for one, two in combinations(members, 2):
            between += [(same, key) for same in _same_order(one["ranking"], two["ranking"])]
    return {
        "agreement": _plain(between),
        "with_rule": {name: _plain(found) for name, found in sorted(with_rule.items())},
    }


def _same_order(one: Sequence[float], two: Sequence[float]) -> list[float]:
    """1 or 0 for each pair that neither side ties."""
    pairs = [(one[i] - one[j], two[i] - two[j]) for i, j in combinations(range(len(one)), 2)]
    return [float(a * b > 0) for a, b in pairs if a and b]


def _plain(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    estimate = (
        mean([same for same, _ in found], [key for _, key in found]) if found else Estimate(math.nan, math.nan, 0)
    )
    return {
        "mean": None if math.isnan(estimate.mean) else estimate.mean,
        "se": None if math.isnan(estimate.se) else estimate.se,
        "n": estimate.n,
    }
