"""A floor for reward models that knows words and nothing of their order: Bradley-Terry on TF-IDF vectors.

What it gets right needs no language model. Sparse arrays of (row, column, value) stand for the matrix, so that this
needs nothing but numpy and torch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lit_llm.records import Comparison

_WORD = re.compile(r"\w+")


class Vectorizer:
    """Words and pairs of neighbouring words, lower case: ``(1 + ln count) idf``, each text scaled to length 1.

    ``idf = ln((1 + texts) / (1 + texts with it)) + 1``, learned from ``texts``. What was not in those is left out.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        found = Counter(term for text in texts for term in set(_terms(text)))
        self.columns = {term: column for column, term in enumerate(found)}
        self.idf = np.log((1 + len(texts)) / (1 + np.fromiter(found.values(), np.float64, len(found)))) + 1

    def transform(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of the (texts, terms) matrix: rows, columns int64 and values float64, each (E,)."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, text in enumerate(texts):
            counts = {self.columns[term]: n for term, n in Counter(_terms(text)).items() if term in self.columns}
            weighed = {column: (1 + math.log(n)) * self.idf[column] for column, n in counts.items()}
            length = math.sqrt(sum(value * value for value in weighed.values()))
            rows += [row] * len(weighed)
            columns += list(weighed)
            values += [value / length for value in weighed.values()]
        entries = torch.tensor([rows, columns], dtype=torch.int64)
        return entries[0], entries[1], torch.tensor(values, dtype=torch.float64)


def _terms(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{one} {two}" for one, two in pairwise(words))


@dataclass(frozen=True)
class TfidfBradleyTerry:
    """``score = w . tfidf(completion)``; the prompt is the same on both sides of a pair and left out."""

    vectorizer: Vectorizer
    weights: Tensor  # (terms,) float64

    @classmethod
    def fit(cls, comparisons: Sequence[Comparison], c: float = 1.0) -> TfidfBradleyTerry:
        """Minimises ``sum of weight / #pairs * -log sigmoid(s_w - s_l) + |w|^2 / (2 c)`` by L-BFGS, from w = 0.

        For comparisons of two completions that is a logistic regression on differences of vectors, without intercept.
        """
        number = {text: n for n, text in enumerate(dict.fromkeys(t for one in comparisons for t in one.completions))}
        pairs = [(number[better], number[worse], part) for better, worse, part in _weighed_pairs(comparisons)]
        vectorizer = Vectorizer(list(number))
        entries = vectorizer.transform(list(number))
        winners, losers, parts = (torch.tensor(column) for column in zip(*pairs, strict=True))
        w = torch.zeros(len(vectorizer.columns), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            scores = _product(entries, w, len(number))
            loss = -(parts * F.logsigmoid(scores[winners] - scores[losers])).sum() + w.square().sum() / (2 * c)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        return cls(vectorizer, w.detach())

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores (n,) of completions (n)."""
        return _product(self.vectorizer.transform(texts), self.weights, len(texts)).numpy()


def _product(entries: tuple[Tensor, Tensor, Tensor], w: Tensor, rows: int) -> Tensor:
    """The sparse matrix times w: (rows,)."""
    row, column, value = entries
    return torch.zeros(rows, dtype=w.dtype).index_add(0, row, value * w[column])


def _weighed_pairs(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str, float]]:
    """(better, worse, part): all pairs of one comparison count together what the comparison counts."""
    for one in comparisons:
        ranked = list(zip(one.completions, one.ranks, strict=True))
        pairs = [(better, worse) for better, high in ranked for worse, low in ranked if high < low]
        yield from ((better, worse, one.weight / len(pairs)) for better, worse in pairs)
