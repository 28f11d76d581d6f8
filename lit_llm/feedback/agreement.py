"""How far annotators agree: with each other, with known answers, with themselves; and whether place decides.

``agreement`` needs rows alone; ``summary`` reads a ranking project and computes what ``coefficients`` names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_llm.evaluation.statistics import Estimate, mean, wilson_interval
from lit_llm.feedback.store.pair_order import same_order

if TYPE_CHECKING:
    from lit_llm.feedback.coefficients import Level, Ranking
    from lit_llm.feedback.store.engine import Store

COEFFICIENTS = {
    "alpha_ranks": "Krippendorff's alpha, ordinal, ranks of each answer",
    "alpha_pairs": "Krippendorff's alpha, nominal, pairs both ways round",
    "kendalls_w": "Kendall's W (1/annotators is chance)",
    "tau_b": "mean tau-b of two annotators",
    "pair_agreement": "pairs ordered alike by two annotators",
    "gold_accuracy": "pairs ordered as the gold answers say",
    "self_consistency": "pairs ordered as at the first time",
    "first_is_best": "the answer shown first is ranked best",
}
_PERSONAL = ("pair_agreement", "gold_accuracy", "self_consistency")
_SHARES = (*_PERSONAL, "first_is_best")


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``agreement``: between annotators of one prompt; ``with_rule``: of each with the rule. {"mean", "se", "n"}.

    For rows of simulated annotators, who all rank the same answers to a prompt.
    """
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
    alike, total = same_order(one, two)
    return [1.0] * alike + [0.0] * (total - alike)


def _plain(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    estimate = (
        mean([same for same, _ in found], [key for _, key in found]) if found else Estimate(math.nan, math.nan, 0)
    )
    return {
        "mean": None if math.isnan(estimate.mean) else estimate.mean,
        "se": None if math.isnan(estimate.se) else estimate.se,
        "n": estimate.n,
    }


def summary(store: Store) -> dict[str, Any]:
    """``summarize`` of all that was submitted in a ranking project."""
    from lit_llm.feedback.store.rankings import rows

    found = {kind: list(rows(store, kinds=(kind,))) for kind in ("normal", "gold", "repeat")}
    known: dict[str, dict[str, int]] = {}
    for row in found["gold"]:
        known.setdefault(ranking_of(row).task, {}).update(zip(row["completion_hashes"], row["gold"], strict=True))
    normal, gold, repeats = ([ranking_of(row) for row in some] for some in found.values())
    return summarize(normal, gold, known, repeats)


def ranking_of(row: Mapping[str, Any]) -> Ranking:
    """A row of rankings by its task (a repeat's: the one that it repeats) and the hashes of its completions.

    Two tasks of one prompt offer different answers: they are two.
    """
    from lit_llm.feedback.coefficients import Ranking

    places, answers = row.get("positions") or [], row["completion_hashes"]
    known = dict(zip(answers, places, strict=True)) if places and None not in places else {}
    task = str(row.get("repeat_of") or row["task"])
    return Ranking(task, row["annotator"], dict(zip(answers, row["ranking"], strict=True)), known)


def summarize(
    rankings: Sequence[Ranking],
    gold: Sequence[Ranking] = (),
    gold_ranks: Mapping[str, Mapping[str, int]] | None = None,
    repeats: Sequence[Ranking] = (),
) -> dict[str, Any]:
    """Every coefficient of some rankings.

    Args:
        gold: rankings of answers whose ranks are known: ``gold_ranks``, {task: {answer: rank}}.
        repeats: second rankings of tasks of ``rankings`` by the same annotators.

    Returns:
        The keys of ``COEFFICIENTS``, each {"mean", "se", "low", "high", "n"}: 95% interval over n independent tasks;
        what cannot be known yet is None. ``first_is_best`` has ``chance`` besides, what blind annotators would give.
        ``rankings``, ``tasks`` and ``annotators`` count; ``by_annotator`` has {"rankings", "gold_accuracy",
        "self_consistency", "pair_agreement"} under each pseudonym.
    """
    from lit_llm.feedback import coefficients as c

    known = gold_ranks or {}
    tables = [(c.shared(members)[1], task) for task, members in c.by_task(rankings).items() if len(members) > 1]
    w = [(c.kendalls_w(table), task) for table, task in tables if table.shape[1] > 1]
    right = [(x, r) for r in gold if r.task in known for x in c.same_order(known[r.task], r.ranks, ties_differ=True)]
    again = _again(rankings, repeats)
    return {
        "rankings": len(rankings),
        "tasks": len({r.task for r in rankings}),
        "annotators": len({r.annotator for r in rankings}),
        "alpha_ranks": _alpha(c.rank_units(rankings), "ordinal"),
        "alpha_pairs": _alpha(c.pair_units(rankings), "nominal"),
        "kendalls_w": average(*_columns((x, task) for x, task in w if not math.isnan(x))),
        "tau_b": average(*_columns(c.between(rankings, lambda one, two: [c.tau_b(one, two)]))),
        "pair_agreement": share(*_columns(_alike(rankings))),
        "gold_accuracy": share(*_columns((x, r.task) for x, r in right)),
        "self_consistency": share(*_columns((x, r.task) for x, r in again)),
        "first_is_best": _first(rankings),
        "by_annotator": {
            name: {
                "rankings": sum(r.annotator == name for r in rankings),
                "pair_agreement": share(*_columns(_alike(rankings, name))),
                "gold_accuracy": share(*_columns((x, r.task) for x, r in right if r.annotator == name)),
                "self_consistency": share(*_columns((x, r.task) for x, r in again if r.annotator == name)),
            }
            for name in sorted({r.annotator for r in (*rankings, *gold, *repeats)})
        },
    }


def describe(found: Mapping[str, Any]) -> str:
    """The coefficients and the annotators as two tables, for people."""
    lines = [f"{found['rankings']} rankings of {found['tasks']} prompts by {found['annotators']} annotators"]
    lines += [sentence(found), ""]
    width = max(len(text) for text in COEFFICIENTS.values())
    for name, text in COEFFICIENTS.items():
        chance = found[name].get("chance")
        beside = f", chance {chance:.1%}" if chance is not None else ""
        lines.append(f"{text:<{width}}  {shown(found[name], percent=name in _SHARES)}{beside}")
    names = found["by_annotator"]
    if names:
        width = max(9, *(len(name) for name in names))
        lines += ["", f"{'annotator':<{width}}  rankings  {'with others':<22}{'gold answers':<22}with oneself"]
    for name, of in names.items():
        parts = "".join(f"{shown(of[key], percent=True, short=True):<22}" for key in _PERSONAL)
        lines.append(f"{name:<{width}}  {of['rankings']:>8}  {parts}".rstrip())
    return "\n".join(lines)


def sentence(found: Mapping[str, Any]) -> str:
    """What the table comes to, for people who know none of its measures."""
    alike, alpha = found["pair_agreement"]["mean"], found["alpha_ranks"]["mean"]
    if alike is None or alpha is None:
        return "no prompt has comparable rankings of two annotators yet, so nothing is known of their agreement"
    return (
        f"two annotators order two answers alike {alike:.0%} of the time (by chance 50%); "
        f"beyond chance they agree by {alpha:.2f} (0: chance, 1: always)"
    )


def shown(value: Mapping[str, Any], *, percent: bool = False, short: bool = False) -> str:
    """A mean with its interval and n: ``0.620 [0.550, 0.690] (n 120)``."""
    if value["mean"] is None:
        return "not known yet"
    form = "{:.1%}" if percent else "{:.3f}"
    text = form.format(value["mean"])
    if value["low"] is not None:
        text += f" [{form.format(value['low'])}, {form.format(value['high'])}]"
    return text if short else f"{text} (n {value['n']})"


def share(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """A share of values from 0 to 1 with a 95% interval: {"mean", "se", "low", "high", "n"}; n counts the clusters.

    Wilson's interval at the effective size: p (1 - p) / se^2 of the clustered standard error, at most one a value;
    where that says nothing (0%, 100%, one cluster) each cluster counts once.
    """
    found = mean(values, clusters) if values else Estimate(math.nan, math.nan, 0)
    spread = found.mean * (1 - found.mean)
    size = min(spread / found.se**2, len(values)) if found.se > 0 and spread > 0 else float(found.n)
    low, high = wilson_interval(found.mean * size, size) if found.n else (math.nan, math.nan)
    return _numbers(mean=found.mean, se=found.se, low=low, high=high) | {"n": found.n}


def average(values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """A mean with its clustered standard error and mean -+ 1.96 of them: as ``share``, for what is no share."""
    found = mean(values, clusters) if values else Estimate(math.nan, math.nan, 0)
    low, high = found.mean - 1.96 * found.se, found.mean + 1.96 * found.se
    return _numbers(mean=found.mean, se=found.se, low=low, high=high) | {"n": found.n}


def _numbers(**values: float) -> dict[str, Any]:
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def _alpha(tasks: Sequence[Sequence[Sequence[float]]], level: Level) -> dict[str, Any]:
    """Alpha, and its bootstrap over tasks."""
    from lit_llm.feedback import coefficients as c

    draws = c.alpha_bootstrap(tasks, level)
    low, high = np.quantile(draws, [0.025, 0.975]).tolist() if len(draws) > 1 else (math.nan, math.nan)
    error = float(draws.std(ddof=1)) if len(draws) > 1 else math.nan
    return _numbers(mean=c.alpha(tasks, level), se=error, low=low, high=high) | {"n": len(tasks)}


def _alike(rankings: Iterable[Ranking], name: str | None = None) -> list[tuple[float, str]]:
    """1 or 0 for each pair of answers that two annotators (one of them ``name``) order and neither ties."""
    from lit_llm.feedback import coefficients as c

    def value(one: Ranking, two: Ranking) -> list[float]:
        return c.same_order(one.ranks, two.ranks) if name in (None, one.annotator, two.annotator) else []

    return c.between(rankings, value)


def _again(rankings: Iterable[Ranking], repeats: Iterable[Ranking]) -> list[tuple[float, Ranking]]:
    """1 or 0 for each pair of answers that an annotator ordered at both times."""
    from lit_llm.feedback import coefficients as c

    first = {(r.task, r.annotator): r for r in rankings}
    both = [(first[r.task, r.annotator], r) for r in repeats if (r.task, r.annotator) in first]
    return [(x, later) for earlier, later in both for x in c.same_order(earlier.ranks, later.ranks)]


def _first(rankings: Iterable[Ranking]) -> dict[str, Any]:
    """How often the answer shown first is ranked best, over rankings that say where each was shown and tie not all."""
    from lit_llm.feedback import coefficients as c

    said = [r for r in rankings if r.places and len(set(r.ranks.values())) > 1]
    found = [(*c.first_is_best(r), r.task) for r in said]
    chance = math.fsum(chance for _, chance, _ in found) / len(found) if found else math.nan
    return share(*_columns((credit, task) for credit, _, task in found)) | _numbers(chance=chance)


def _columns(found: Iterable[tuple[float, str]]) -> tuple[list[float], list[str]]:
    known = sorted(found, key=lambda item: (item[1], item[0]))  # sums do not depend on the order of storage
    return [value for value, _ in known], [task for _, task in known]
