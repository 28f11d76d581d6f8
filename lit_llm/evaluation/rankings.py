"""Does a model order completions as people did?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_llm.backbone.heads import LanguageModel, ScoreModel
from lit_llm.evaluation.likelihood import completion_scores
from lit_llm.evaluation.scores import Measured, Scores, clusters_of, measured
from lit_llm.evaluation.statistics import Estimate, expected_calibration_error
from lit_llm.records import Heldout
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
    every = np.concatenate([margins[n].ravel() for n in kept]) if kept else np.zeros(0)
    ece = expected_calibration_error(_sigmoid(np.abs(every)), every > 0)
    result = Scores(heldout.name, heldout.kind, measures, clusters, {"ece": Estimate(ece, math.nan, len(every))})
    return result.with_floors(known)


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
