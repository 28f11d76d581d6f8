"""Does a classifier call flagged what people flagged, on answers that it has not seen?"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lit_llm.backbone.models import ScoreModel
from lit_llm.evaluation import classification as by
from lit_llm.evaluation.likelihood import completion_scores
from lit_llm.evaluation.scores import Measured, Scores, clusters_of, measured
from lit_llm.records import Comparison, Heldout
from lit_llm.text.tokenizer import Tokenizer

MAJORITY, LONGER = "majority_class", "longer_is_flagged"


def on_flags(
    model: ScoreModel, tokenizer: Tokenizer, heldout: Heldout, numbers: list[int], batch_tokens: int, floors: bool
) -> Scores:
    """accuracy, sensitivity, specificity (at the model's own threshold), brier and base_rate item by item, and of the
    whole balanced_accuracy, auroc, average_precision and ece; errors by prompt.

    Floors: the class that most items have, which knows nothing; and longer answers being flagged, with the threshold of
    length that does best on this very set, which flatters that floor. Answers beyond the context are left out.
    """
    rows = [Comparison(heldout.items[n].prompt, (heldout.items[n].completion,), (1,)) for n in numbers]
    logits = completion_scores(model, tokenizer, rows, batch_tokens)
    found = {n: float(one[0, 0]) for n, one in zip(numbers, logits, strict=True) if one is not None}
    kept, clusters = list(found), clusters_of(heldout, numbers)
    positive = np.array([heldout.items[n].label for n in kept], dtype=np.float64)
    chance = 0.5 * (1 + np.tanh(0.5 * np.array([found[n] for n in kept], dtype=np.float64)))
    items = _by_item(kept, chance, positive, model.threshold)
    items["base_rate"] = measured(kept, positive)
    scores = Scores(heldout.name, heldout.kind, items, clusters)
    if not kept:
        return scores
    groups = [clusters[n] for n in kept]
    weights, count = by.resampled(groups), len(set(groups))
    data = by.labels(chance, positive)
    whole = _of_all(data, model.threshold) | {"ece": by.calibration_error(data)}
    scores = dataclasses.replace(scores, whole={k: by.estimate(v, weights, count) for k, v in whole.items()})
    if not floors:
        return scores
    usual = np.full(len(kept), float(positive.mean() >= 0.5))
    lengths = np.array([len(heldout.items[n].completion) for n in kept], dtype=np.float64)
    by_length = by.labels(lengths, positive)
    best = by.best_threshold(by_length)
    called = _by_item(kept, (lengths >= best).astype(np.float64), positive, 0.5)
    del called["brier"]  # a length is no probability
    known = {MAJORITY: _majority(kept, usual, positive), LONGER: called}
    scores = scores.with_floors(known)
    for name, floor in {MAJORITY: _of_all(by.labels(usual, positive), 0.5), LONGER: _of_all(by_length, best)}.items():
        for measure, statistic in floor.items():
            scores.floors[name][measure] = by.estimate(statistic, weights, count)
            gap = by.estimate(by.difference(whole[measure], statistic), weights, count)
            scores.above_floors[name][measure] = gap
    return scores


def _by_item(kept: list[int], chance: by.Array, positive: by.Array, threshold: float) -> dict[str, Measured]:
    right = (chance >= threshold) == (positive > 0.5)
    return {
        "accuracy": measured(kept, right),
        "sensitivity": measured(kept, right * positive, positive),
        "specificity": measured(kept, right * (1 - positive), 1 - positive),
        "brier": measured(kept, (chance - positive) ** 2),
    }


def _majority(kept: list[int], usual: by.Array, positive: by.Array) -> dict[str, Measured]:
    """Always the more frequent class; as a probability, the share of positives itself."""
    return {
        "accuracy": measured(kept, usual == positive),
        "brier": measured(kept, (positive.mean() - positive) ** 2),
    }


def _of_all(data: by.Labels, threshold: float) -> dict[str, by.Statistic]:
    return {
        "balanced_accuracy": by.balanced_accuracy(data, threshold),
        "auroc": by.auroc(data),
        "average_precision": by.average_precision(data),
    }


def estimates(logits: by.Array, positive: by.Array, threshold: float) -> dict[str, float]:
    """The same measures of a validation set as plain numbers, ``logits`` and ``positive`` (n,); nan where one class is
    missing."""
    chance = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    data, once = by.labels(chance, positive), np.ones((1, len(chance)))
    found = {name: float(statistic(once)[0]) for name, statistic in _of_all(data, threshold).items()}
    found["ece"] = float(by.calibration_error(data)(once)[0])
    items = _by_item(list(range(len(chance))), chance, data.positive, threshold)
    for name, one in items.items():
        total = float(one.weights.sum())
        found[name] = float(one.values.sum()) / total if total else math.nan
    return found | {"base_rate": float(data.positive.mean())}
