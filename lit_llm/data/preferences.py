"""Preferences: K completions of a prompt, ranked, for reward models and the DPO family.

The completions of a prompt stay together: a batch is counted in prompts, and each completion is a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.data.data_module import (
    DataModule,
    DataPath,
    Prepared,
    at_least,
    moved,
    one_of,
    records_hash,
    splits_hash,
    tests_of,
)
from lit_llm.data.loading import shuffled
from lit_llm.data.reading import Records
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Comparison, RankingBatch
from lit_llm.text.tokenizer import Tokenizer


class Group(NamedTuple):
    """One comparison in tokens."""

    prompt: NDArray[Any]  # (prompt tokens,)
    completions: tuple[NDArray[Any], ...]  # K of (completion tokens,), each with its end token
    ranks: tuple[int, ...]  # (K,)
    weight: float


@dataclass(frozen=True)
class RankingRows:
    """Comparisons as a map-style data set; their completions make the rows of a RankingBatch."""

    store: TokenStore  # for each comparison its prompt and then its completions
    comparisons: Sequence[tuple[tuple[int, ...], float]]  # ranks and weight
    first: Sequence[int]  # where a comparison's prompt is in the store
    cut: Sequence[int]  # tokens taken away from the prompt's left
    pad_id: int

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, index: int) -> Group:
        (ranks, weight), at, cut = self.comparisons[index], self.first[index], self.cut[index]
        lengths = self.store.lengths_of(at, at + len(ranks) + 1)
        prompt = self.store.tokens(at, cut, lengths[0])
        completions = tuple(self.store.tokens(at + k, 0, lengths[k]) for k in range(1, len(ranks) + 1))
        return Group(prompt, completions, ranks, weight)

    def collate(self, groups: Sequence[Group]) -> RankingBatch:
        """P comparisons with N completions in all to a RankingBatch, right-padded to the longest."""
        rows = [(p, np.concatenate([g.prompt, c])) for p, g in enumerate(groups) for c in g.completions]
        lengths = torch.tensor([len(ids) for _, ids in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self.pad_id)
        for row, (_, ids) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        owners = torch.tensor([p for p, _ in rows])
        return RankingBatch(
            input_ids=input_ids,
            lengths=lengths,
            prompt_lengths=torch.tensor([len(g.prompt) for g in groups])[owners],
            groups=owners,
            ranks=torch.tensor([rank for g in groups for rank in g.ranks]),
            weights=torch.tensor([g.weight for g in groups], dtype=torch.float32),
        )


class Preferences(DataModule):
    """Batches of ranked completions.

    Args:
        path: comparisons: pairs, rankings of K completions, HH transcripts (``formats.py``).
        max_length: longest prompt and completion together, in tokens.
        micro_batch_size: prompts per process and step; each brings its K completions.
        overlong: a comparison with a completion that does not fit behind its prompt is dropped whole (``drop``), or
            its prompt is cut from the left (``truncate``), for all of its completions alike. A completion is never
            cut: its end token is part of what is judged. All are counted.

    A prompt that alone fills ``max_length`` is an error, or skipped and counted with ``on_error=skip``. The same holds
    for the test split, where nothing is truncated.
    Other arguments: ``DataModule``.
    """

    batch_type = RankingBatch

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        path: DataPath,
        max_length: int = 512,
        micro_batch_size: int = 4,
        overlong: Literal["drop", "truncate"] = "drop",
        num_workers: int = 0,
        seed: int = 0,
        format: str | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        max_error_rate: float = 0.2,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        cache_dir: str = "outputs/cache",
        name: str = "rankings",
        accept_changed_data: bool = False,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            name=name,
            format=format,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            seed=seed,
            on_error=on_error,
            max_error_rate=max_error_rate,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            cache_dir=cache_dir,
            accept_changed_data=accept_changed_data,
        )
        at_least("max_length", max_length, 2)
        one_of("overlong", overlong, ("drop", "truncate"))
        self.path, self.max_length, self.overlong = path, max_length, overlong

    def _parameters(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "overlong": self.overlong}

    def _prepare(self) -> Prepared:
        records = self._read(self.path, "comparisons")
        reasons = {"prompt_too_long": 0, "too_long": 0, "truncated": 0}
        train = self._rows(records["train"], "train", reasons)
        validation = self._rows(records["validation"], "validation", reasons)
        records = self._tests_that_fit(records, reasons)
        truncated = reasons.pop("truncated")
        if len(train) == 0:
            why = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
            raise UserError(
                f"data.path={self.path}: no comparison to train on (skipped: {why or 'none was read'}); "
                f"raise data.max_length={self.max_length}, or set data.overlong=truncate"
            )
        return Prepared(
            train=train,
            order=shuffled(len(train), self.seed),
            validation={self.name: validation},
            heldout=tuple(tests_of(records, self.name, "rankings")),
            counts={**moved(records.counts.as_dict(), reasons), "truncated": truncated} | _simulated(records),
            content=splits_hash(records),
            train_tokens=sum(len(c) for index in range(len(train)) for c in train[index].completions),
        )

    def _tests_that_fit(self, records: Records, reasons: dict[str, int]) -> Records:
        """The records less the tests that fit as little as what is trained; those are counted in ``reasons``.

        A test keeps its whole prompt, so what would have to be truncated is left out of it.
        """
        splits = dict(records.splits)
        for name, comparisons in records.splits.items():
            if name.startswith("test"):
                _, _, kept, cuts = self._fitted(comparisons, name, reasons)
                splits[name] = [comparisons[index] for index, cut in zip(kept, cuts, strict=True) if not cut]
                cut = sum(cut > 0 for cut in cuts)
                reasons["truncated"] -= cut
                reasons["too_long"] += cut
        return Records(splits, records.counts)

    def _rows(self, comparisons: list[Comparison], split: str, reasons: dict[str, int]) -> RankingRows:
        """The comparisons that fit; what does not is counted in ``reasons``."""
        store, firsts, kept, cuts = self._fitted(comparisons, split, reasons)
        chosen = [(comparisons[i].ranks, comparisons[i].weight) for i in kept]
        return RankingRows(store, chosen, [firsts[i] for i in kept], cuts, self.tokenizer.pad_id)

    def _fitted(
        self, comparisons: list[Comparison], split: str, reasons: dict[str, int]
    ) -> tuple[TokenStore, list[int], list[int], list[int]]:
        """Tokens, where each comparison begins in them, the numbers of those that fit, and what each is cut by."""
        store = self._tokenized(comparisons, f"tokenize {self.name} {split}")
        firsts = [0, *accumulate(1 + len(c.completions) for c in comparisons)]
        kept: list[int] = []
        cuts: list[int] = []
        for index, comparison in enumerate(comparisons):
            lengths = store.lengths_of(firsts[index], firsts[index + 1])
            prompt, longest = lengths[0], max(lengths[1:])
            cut = max(0, prompt + longest - self.max_length)
            if prompt >= self.max_length and self.overlong == "drop":
                self._stop_at(comparison, f"the prompt has {prompt} tokens and the context {self.max_length}")
                reasons["prompt_too_long"] += 1
            elif cut and (self.overlong == "drop" or cut >= prompt):
                reasons["too_long"] += 1
            else:
                reasons["truncated"] += cut > 0
                kept.append(index)
                cuts.append(cut)
        return store, firsts, kept, cuts

    def _stop_at(self, comparison: Comparison, what: str) -> None:
        if self.on_error == "stop":
            raise UserError(
                f"{comparison.source}: {what}; raise data.max_length, set data.overlong=truncate, "
                "or data.on_error=skip to count such rows and go on"
            )

    def _tokenized(self, comparisons: list[Comparison], description: str) -> TokenStore:
        """For each comparison its prompt and then its completions, as documents of their own."""
        tokenizer, chat = self.tokenizer, self.tokenizer.chat
        parts = [(c, part) for c in comparisons for part in (None, *c.completions)]

        def encode(batch: Sequence[tuple[Comparison, str | None]]) -> list[Encoded]:
            return [
                (
                    chat.encode_prompt(tokenizer, comparison.prompt)
                    if part is None
                    else chat.encode_completion(tokenizer, part),
                    None,
                )
                for comparison, part in batch
            ]

        return cached_tokens(
            parts,
            encode,
            key=content_hash(["comparisons", tokenizer.fingerprint(), records_hash(comparisons)]),
            cache_dir=self.cache_dir,
            size_of=lambda part: len(part[1] or "") + 100,
            description=description,
        )


def _simulated(records: Records) -> dict[str, int]:
    """How many rankings say of themselves that no person made them."""
    number = sum(comparison.simulated for split in records.splits.values() for comparison in split)
    return {"simulated": number} if number else {}
