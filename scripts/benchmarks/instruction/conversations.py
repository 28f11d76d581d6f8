"""Conversations for the benchmark of instruction tuning: people's, from a file, or lengths drawn with a seed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tuning.drawn import FIRST_ID, drawn_length
from benchmarks.tuning.tokenizer import own_tokenizer
from lit_llm.data.instructions import Instructions
from lit_llm.data.options import InstructionsOptions
from lit_llm.data.packing import PackedRows, Plan, best_fit_decreasing
from lit_llm.data.token_cache import TokenStore
from lit_llm.errors import UserError

QUESTION, ANSWER = (40, 0.7), (90, 0.8)
"""Median tokens and the deviation of their logarithm."""


@dataclass(frozen=True)
class Source:
    """Which conversations: ``count`` of ``path``, or drawn ones, of at most ``max_length`` tokens."""

    path: Path | None
    count: int
    vocab_size: int
    max_length: int
    seed: int = 0

    def conversations(self) -> list[tuple[list[int], list[int]]]:
        """(ids, 1 where a token is trained). Raises UserError where there are too few."""
        return self._drawn() if self.path is None else self._read()

    def described(self) -> str:
        if self.path is not None:
            return f"{self.count} conversations of {self.path.name}, at most {self.max_length} tokens each"
        return (
            f"{self.count} drawn conversations, questions and answers lognormal, medians {QUESTION[0]} and {ANSWER[0]} "
            f"tokens, sigmas {QUESTION[1]} and {ANSWER[1]}, at most {self.max_length} in all, seed {self.seed}"
        )

    def _drawn(self) -> list[tuple[list[int], list[int]]]:
        rng, found = np.random.default_rng(self.seed), []
        for _ in range(self.count):
            question = drawn_length(rng, QUESTION, self.max_length // 2)
            answer = drawn_length(rng, ANSWER, self.max_length - question)
            ids = rng.integers(FIRST_ID, self.vocab_size, question + answer).tolist()
            found.append((ids, [0] * question + [1] * answer))
        return found

    def _read(self) -> list[tuple[list[int], list[int]]]:
        assert self.path is not None
        with tempfile.TemporaryDirectory() as folder:
            data = Instructions(
                InstructionsOptions(
                    path=str(self.path), max_length=self.max_length, packing=False, on_error="skip", cache_dir=folder
                ),
                tokenizer=own_tokenizer(self.path, self.vocab_size),
            )
            rows = data.prepared.train
            assert isinstance(rows, PackedRows)
            documents, plan = rows.documents, rows.plan
            found = []
            for document, length in zip(plan.document.tolist(), plan.length.tolist(), strict=True):
                ids = documents.tokens(document, 0, length + 1).tolist()
                found.append((ids, documents.trained(document, 0, length + 1).astype(int).tolist()))
        if len(found) < self.count:
            raise UserError(f"path={self.path}: {len(found)} conversations; {self.count} are needed")
        return found[: self.count]


def packed(conversations: list[tuple[list[int], list[int]]], row_tokens: int) -> PackedRows:
    """As the data module packs them."""
    bounds = np.cumsum([0, *(len(ids) for ids, _ in conversations)]).astype(np.int64)
    tokens, trained = (np.concatenate([np.asarray(each[n]) for each in conversations]) for n in (0, 1))
    store = TokenStore(tokens, bounds, trained.astype(np.uint8))
    plan: Plan = best_fit_decreasing(store.lengths - 1, row_tokens)
    return PackedRows(store, plan, pad_id=0)
