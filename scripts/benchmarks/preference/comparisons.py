"""Comparisons for the benchmarks of preference training: people's, from a file, or lengths drawn with a seed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tuning.drawn import FIRST_ID, drawn_length
from benchmarks.tuning.tokenizer import own_tokenizer
from lit_llm.data.options import PreferencesOptions
from lit_llm.data.preferences import Preferences
from lit_llm.data.ranking_rows import Judged, RankingRows
from lit_llm.data.token_cache import TokenStore
from lit_llm.errors import UserError

PROMPT, COMPLETION = (80, 0.7), (40, 0.7)
"""Median tokens and the deviation of their logarithm: lengths are lognormal, as those of chats about are."""


@dataclass(frozen=True)
class Source:
    """Which comparisons: the first ``count`` of ``path``, or drawn ones of ``completions`` each."""

    path: Path | None
    count: int
    completions: int
    vocab_size: int
    max_length: int
    seed: int = 0

    def rows(self) -> RankingRows:
        """With no two completions of a prompt tied. Raises UserError where there are too few."""
        return self._drawn() if self.path is None else self._read()

    def described(self) -> str:
        if self.path is not None:
            return f"{self.count} comparisons of {self.path.name}, at most {self.max_length} tokens each"
        lengths = (f"{name} lognormal, median {m} tokens, sigma {s}" for name, (m, s) in _LENGTHS.items())
        return (
            f"{self.count} drawn comparisons of {self.completions} completions, {', '.join(lengths)}, seed {self.seed}"
        )

    def _drawn(self) -> RankingRows:
        rng = np.random.default_rng(self.seed)
        documents: list[NDArray[np.int64]] = []
        first: list[int] = []
        for _ in range(self.count):
            first.append(len(documents))
            prompt = drawn_length(rng, PROMPT, self.max_length // 2)
            sizes = [drawn_length(rng, COMPLETION, self.max_length - prompt) for _ in range(self.completions)]
            documents += [rng.integers(FIRST_ID, self.vocab_size, size) for size in (prompt, *sizes)]
        bounds = np.cumsum([0, *map(len, documents)])
        judged = [Judged(tuple(range(1, self.completions + 1)), 1.0, 0.0, 0)] * self.count
        return RankingRows(TokenStore(np.concatenate(documents), bounds, None), judged, first, [0] * self.count)

    def _read(self) -> RankingRows:
        assert self.path is not None
        with tempfile.TemporaryDirectory() as folder:
            data = Preferences(
                PreferencesOptions(
                    path=str(self.path), max_length=self.max_length, on_error="skip", seed=self.seed, cache_dir=folder
                ),
                tokenizer=own_tokenizer(self.path, self.vocab_size),
            )
            rows = data.prepared.train
            assert isinstance(rows, RankingRows)
            known = [n for n, judged in enumerate(rows.comparisons) if len(set(judged.ranks)) == len(judged.ranks)]
            if len(known) < self.count:
                raise UserError(f"path={self.path}: {len(known)} comparisons without a tie; {self.count} are needed")
            kept = known[: self.count]
            lists = ([values[n] for n in kept] for values in (rows.comparisons, rows.first, rows.cut))
            comparisons, first, cut = lists
            return RankingRows(_in_memory(rows.store), comparisons, first, cut)  # type: ignore[arg-type]


_LENGTHS = {"prompts": PROMPT, "completions": COMPLETION}


def _in_memory(store: TokenStore) -> TokenStore:
    """The tokens without the file that they were cached in."""
    bounds = np.concatenate([[0], np.cumsum(store.lengths)]).astype(np.int64)
    return TokenStore(
        np.concatenate([store.tokens(n, 0, int(size)) for n, size in enumerate(store.lengths)]), bounds, None
    )


def pairs(rows: RankingRows, most: int | None = None) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) in ids, of every two completions of a comparison, of the first ``most`` ones."""
    found = []
    for n in range(len(rows) if most is None else most):
        prompt, completions, judged = rows[n]
        order = sorted(range(len(completions)), key=judged.ranks.__getitem__)
        for place, better in enumerate(order):
            found += [
                (prompt.tolist(), completions[better].tolist(), completions[worse].tolist())
                for worse in order[place + 1 :]
            ]
    return found
