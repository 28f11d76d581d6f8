"""Does a language model tell completions that people called good from those they called bad?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_llm.backbone.models import LanguageModel
from lit_llm.evaluation.likelihood import completion_scores
from lit_llm.evaluation.scores import Scores, clusters_of
from lit_llm.evaluation.statistics import Estimate, ratio
from lit_llm.records import Comparison, Heldout
from lit_llm.text.tokenizer import Tokenizer


def on_labels(
    model: LanguageModel,
    tokenizer: Tokenizer,
    heldout: Heldout,
    numbers: list[int],
    batch_tokens: int,
    reference: LanguageModel | None,
) -> Scores:
    """The share of (good, bad) pairs of completions that the model orders so, ties half: by its mean log-probability
    (likelihood_auc) and by the reward that it stands for beside a ``reference`` (implicit_auc).

    Completions beyond the context are left out.
    """
    items = [heldout.items[n] for n in numbers]
    alone = [Comparison(item.prompt, (item.completion,), (1,)) for item in items]
    found = completion_scores(model, tokenizer, alone, batch_tokens, reference)
    kept = [n for n, scores in zip(numbers, found, strict=True) if scores is not None]
    columns = np.array([scores[0] for scores in found if scores is not None]).reshape(len(kept), -1)
    labels = [heldout.items[n].label for n in kept]
    clusters = clusters_of(heldout, numbers)
    of_prompt = [clusters[n] for n in kept]
    names = ("likelihood_auc", "implicit_auc")
    whole = {name: auc(column, labels, of_prompt) for name, column in zip(names, columns.T, strict=False)}
    return Scores(heldout.name, heldout.kind, {}, clusters, whole)


def auc(scores: ArrayLike, labels: ArrayLike, clusters: Sequence[Any] | None = None) -> Estimate:
    """P(score of a true one > score of a false one) + P(equal) / 2, with the error of DeLong et al. 1988, eq. 5.

    scores, labels: (n,). An item's placement is its share of pairs won; the error sums those within a cluster. nan
    where one of the two labels is missing.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positive, negative = x[y], x[~y]
    if not len(positive) or not len(negative):
        return Estimate(math.nan, math.nan, len(x))
    placement = np.empty(len(x))
    placement[y] = _share_below(negative, positive)
    placement[~y] = 1 - _share_below(positive, negative)
    value = float(placement[y].mean())
    influence = (placement - value) / np.where(y, len(positive), len(negative))
    spread = ratio(influence, np.ones(len(x)), clusters)
    return Estimate(value, spread.se * len(x), spread.n)


def _share_below(others: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value the share of ``others`` that it exceeds, equal ones half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))
