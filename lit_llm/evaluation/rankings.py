"""Does a model order completions as people did?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.evaluation.annotator_agreement import unanimous
from lit_llm.evaluation.likelihood import completion_scores
from lit_llm.evaluation.scores import Measured, Scores, clusters_of, measured
from lit_llm.evaluation.statistics import Estimate, expected_calibration_error
from lit_llm.records import Comparison, Heldout
from lit_llm.text.tokenizer import Tokenizer


def on_rankings(
    model: LanguageModel | ScoreModel,
    tokenizer: Tokenizer,
    heldout: Heldout,
    numbers: list[int],
    batch_tokens: int,
    reference: LanguageModel | None,
    floors: bool,
) -> Scores:
    """Pairs that a reward model orders as the annotator did, with how sure it was; a language model's order likewise,
    and that of the reward which it stands for beside a ``reference``.

    A reward model's accuracy is also told on the pairs that all of several annotators order alike (accuracy_agreed) and
    on those that they do not (accuracy_disputed), and the correlation of its score with the length in characters.

    Comparisons without a strict pair, or with a text beyond the context, are left out.
    """
    items = [heldout.items[n] for n in numbers]
    found = completion_scores(model, tokenizer, items, batch_tokens, reference)
    pairs, margins = {}, {}
    for n, item, scores in zip(numbers, items, found, strict=True):
        strict = _strict_pairs(item.ranks)
        if scores is not None and strict:
            pairs[n] = strict
            margins[n] = np.array([scores[winner] - scores[loser] for winner, loser in strict])
    kept = list(pairs)
    clusters = clusters_of(heldout, numbers)
    weights = [len(pairs[n]) for n in kept]
    names = ["accuracy"] if isinstance(model, ScoreModel) else ["likelihood_accuracy", "implicit_accuracy"]
    names = names[: 1 if reference is None else 2]
    measures = {
        name: measured(kept, [_wins(margins[n][:, column]) for n in kept], weights) for column, name in enumerate(names)
    }
    lengths = _by_length(heldout, pairs) if floors else {}
    known = {floor: dict.fromkeys(names, value) for floor, value in lengths.items()}
    if not isinstance(model, ScoreModel):
        return Scores(heldout.name, heldout.kind, measures, clusters).with_floors(known)
    measures["nll"] = measured(kept, [np.logaddexp(0, -margins[n]).sum() for n in kept], weights)
    measures["brier"] = measured(kept, [((1 - _sigmoid(margins[n])) ** 2).sum() for n in kept], weights)
    measures |= _by_agreement(items, numbers, margins)
    every = np.concatenate([margins[n].ravel() for n in kept]) if kept else np.zeros(0)
    ece = expected_calibration_error(_sigmoid(np.abs(every)), every > 0)
    whole = {"ece": Estimate(ece, math.nan, len(every))}
    scored = [(item, scores) for item, scores in zip(items, found, strict=True) if scores is not None]
    if (correlation := _length_correlation(scored)) is not None:
        whole["length_correlation"] = correlation
    return Scores(heldout.name, heldout.kind, measures, clusters, whole).with_floors(known)


def _by_agreement(
    items: Sequence[Comparison], numbers: Sequence[int], margins: Mapping[int, Any]
) -> dict[str, Measured]:
    """The accuracy on pairs that several annotators judged, by whether they agree; less what there is none of."""
    judged = [(n, item, i, j) for n, item in zip(numbers, items, strict=True) for i, j in _every_pair(item)]
    pairs = [(item.prompt, item.completions[i], item.completions[j]) for _, item, i, j in judged]
    orders = [_sign(item.ranks[j] - item.ranks[i]) for _, item, i, j in judged]
    alike = unanimous(pairs, orders, [item.annotator for _, item, _, _ in judged])
    of_pair = {(n, i, j): one for (n, _, i, j), one in zip(judged, alike, strict=True)}
    found = {}
    for name, wanted in (("accuracy_agreed", True), ("accuracy_disputed", False)):
        chosen = {}
        for n, item in zip(numbers, items, strict=True):
            if n in margins:
                strict = enumerate(_strict_pairs(item.ranks))
                places = [k for k, (i, j) in strict if of_pair[(n, *_in_order(item, i, j))] is wanted]
                if places:
                    chosen[n] = margins[n][places, 0]
        if chosen:
            counts = [len(one) for one in chosen.values()]
            found[name] = measured(list(chosen), [_wins(one) for one in chosen.values()], counts)
    return found


def _every_pair(item: Comparison) -> list[tuple[int, int]]:
    """Every two completions, in an order of their texts: the same for whoever ranked them in whatever order."""
    count = len(item.completions)
    return [_in_order(item, i, j) for i in range(count) for j in range(i + 1, count)]


def _in_order(item: Comparison, i: int, j: int) -> tuple[int, int]:
    return (i, j) if item.completions[i] <= item.completions[j] else (j, i)


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _length_correlation(scored: Sequence[tuple[Comparison, Any]]) -> Estimate | None:
    """Of score and length over the completions, each counted once; None where one of them does not vary."""
    once = {
        (item.prompt, text): (float(score), float(len(text)))
        for item, scores in scored
        for text, score in zip(item.completions, scores[:, 0], strict=True)
    }
    values = np.array(list(once.values())).reshape(-1, 2)
    if len(values) < 3 or not values.std(0).all():
        return None
    return Estimate(float(np.corrcoef(values.T)[0, 1]), math.nan, len(values))


def _by_length(heldout: Heldout, pairs: dict[int, list[tuple[int, int]]]) -> dict[str, Measured]:
    """The shorter text (in characters) of a pair is taken for the better one, or the longer."""
    kept, weights = list(pairs), [len(some) for some in pairs.values()]
    sizes = {n: [len(text) for text in heldout.items[n].completions] for n in kept}
    gaps = [np.array([sizes[n][loser] - sizes[n][winner] for winner, loser in pairs[n]]) for n in kept]
    signs = {"shorter_wins": 1, "longer_wins": -1}
    return {name: measured(kept, [_wins(sign * gap) for gap in gaps], weights) for name, sign in signs.items()}


def _strict_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) for every two completions that are not tied."""
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def _wins(margins: Any) -> float:
    """Pairs ordered right; a tie is half a pair."""
    return float((margins > 0).sum() + 0.5 * (margins == 0).sum())


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))
