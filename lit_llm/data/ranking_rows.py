"""Comparisons in tokens: K completions of one prompt, and the batches that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.data.token_cache import TokenStore
from lit_llm.records import RankingBatch


class Judged(NamedTuple):
    """What one annotator made of the completions of a prompt."""

    ranks: tuple[int, ...]  # (K,)
    weight: float
    margin: float
    annotator: int  # index into ``Preferences.annotators``
    attacked: bool = False  # the last completion is an attack


class Group(NamedTuple):
    """One comparison in tokens."""

    prompt: NDArray[Any]  # (prompt tokens,)
    completions: tuple[NDArray[Any], ...]  # K of (completion tokens,), each with its end token
    judged: Judged


@dataclass(frozen=True)
class RankingRows:
    """Comparisons as a map-style data set; their completions make the rows of a RankingBatch."""

    store: TokenStore  # for each comparison its prompt and then its completions
    comparisons: Sequence[Judged]
    first: Sequence[int]  # where a comparison's prompt is in the store
    cut: Sequence[int]  # tokens taken away from the prompt's left
    pad_id: int

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, index: int) -> Group:
        judged, at, cut = self.comparisons[index], self.first[index], self.cut[index]
        count = len(judged.ranks)
        lengths = self.store.lengths_of(at, at + count + 1)
        prompt = self.store.tokens(at, cut, lengths[0])
        completions = tuple(self.store.tokens(at + k, 0, lengths[k]) for k in range(1, count + 1))
        return Group(prompt, completions, judged)

    def collate(self, groups: Sequence[Group]) -> RankingBatch:
        """P comparisons with N completions in all to a RankingBatch, right-padded to the longest."""
        rows = [(p, np.concatenate([g.prompt, c])) for p, g in enumerate(groups) for c in g.completions]
        lengths = torch.tensor([len(ids) for _, ids in rows])
        input_ids = torch.full((len(rows), int(lengths.max())), self.pad_id)
        for row, (_, ids) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        owners = torch.tensor([p for p, _ in rows])
        numbered = [(g, k) for g in groups for k in range(len(g.completions))]
        return RankingBatch(
            input_ids=input_ids,
            lengths=lengths,
            prompt_lengths=torch.tensor([len(g.prompt) for g in groups])[owners],
            groups=owners,
            ranks=torch.tensor([rank for g in groups for rank in g.judged.ranks]),
            weights=torch.tensor([g.judged.weight for g in groups], dtype=torch.float32),
            margins=torch.tensor([g.judged.margin for g in groups], dtype=torch.float32),
            annotators=torch.tensor([g.judged.annotator for g in groups]),
            attacked=torch.tensor([g.judged.attacked and k == len(g.completions) - 1 for g, k in numbered]),
        )
