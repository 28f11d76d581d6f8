"""Pairs of ranked completions: how many of them a score orders as the annotators did, and how far ahead of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lit_llm.evaluation.statistics import Estimate, ratio
from lit_llm.records import Comparison, Message

Scores = NDArray[np.float64]  # (K,) of one comparison


def compare(
    comparisons: Sequence[Comparison], scores: Sequence[Scores], others: Mapping[str, Sequence[Scores]]
) -> tuple[Estimate, dict[str, tuple[Estimate, Estimate]]]:
    """Accuracy over strict pairs, and of each other score the accuracy and how much less that is, on the same pairs.

    A tie is half a pair. Standard errors are clustered by prompt: pairs of one prompt share completions and annotators.
    """
    clusters = ["\n".join(message.content for message in one.prompt) for one in comparisons]
    counts = [len(strict_pairs(one)) for one in comparisons]
    wins = _wins(comparisons, scores)
    found = {}
    for name, theirs in others.items():
        other = _wins(comparisons, theirs)
        found[name] = ratio(other, counts, clusters), ratio(wins - other, counts, clusters)
    return ratio(wins, counts, clusters), found


def _wins(comparisons: Sequence[Comparison], scores: Sequence[Scores]) -> NDArray[np.float64]:
    """(n,) pairs of each comparison that are ordered right."""
    return np.array(
        [
            sum(higher(s[better] - s[worse]) for better, worse in strict_pairs(one))
            for one, s in zip(comparisons, scores, strict=True)
        ]
    )


def strict_pairs(comparison: Comparison) -> list[tuple[int, int]]:
    """(better, worse) for every two completions that are not tied."""
    ranks = comparison.ranks
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def higher(gap: float) -> float:
    """1 above 0, half at 0."""
    return float(gap > 0) + 0.5 * float(gap == 0)


def best_answers(comparisons: Sequence[Comparison]) -> list[tuple[tuple[Message, ...], str]]:
    """Each prompt once, with the answer whose mean place among its annotators is the best."""
    places: dict[tuple[Message, ...], dict[str, list[float]]] = {}
    for one in comparisons:
        for text, rank in zip(one.completions, one.ranks, strict=True):
            above = sum(other < rank for other in one.ranks)
            places.setdefault(one.prompt, {}).setdefault(text, []).append(above / (len(one.ranks) - 1))
    return [(prompt, min(texts, key=lambda text: float(np.mean(texts[text])))) for prompt, texts in places.items()]


def best_of_prompt(prompts: Sequence[Sequence[Message]], numbers: Sequence[int], scores: Sequence[float]) -> list[int]:
    """The number of the best-scored answer to each prompt, in order; one without a score (nan) is the worst."""
    found: dict[tuple[Message, ...], int] = {}
    for n in numbers:
        best = found.setdefault(tuple(prompts[n]), n)
        if scores[n] > scores[best] or math.isnan(scores[best]):
            found[tuple(prompts[n])] = n
    return sorted(found.values())


def ordered_by(
    gold: Sequence[float], prompts: Sequence[Sequence[Message]], completions: Sequence[str], numbers: Sequence[int]
) -> list[tuple[Comparison, list[int]]]:
    """The answers that share a prompt as comparisons ranked by ``gold``, with the numbers of the answers.

    Prompts with fewer than two different answers, or none that gold orders, are left out; so are answers that gold
    gives no number (nan).
    """
    together: dict[tuple[Message, ...], dict[str, int]] = {}
    for n in (n for n in numbers if not math.isnan(gold[n])):
        together.setdefault(tuple(prompts[n]), {}).setdefault(completions[n], n)
    found = []
    for prompt, texts in together.items():
        places = list(texts.values())
        values = [float(gold[n]) for n in places]
        ranks = tuple(1 + sum(other > value for other in values) for value in values)
        if len(set(ranks)) > 1:
            found.append((Comparison(prompt, tuple(texts), ranks), places))
    return found
