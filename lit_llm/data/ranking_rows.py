"""Comparisons in tokens: K completions of one prompt, and the batches that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_llm.backbone.completions import pack
from lit_llm.data.completion_checks import check_rows
from lit_llm.data.ranking_checks import check_rankings
from lit_llm.data.token_cache import TokenStore
from lit_llm.objectives.ranking import strict_pairs
from lit_llm.records import Attacks, RankingBatch, TokenRow


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
    """Comparisons as a map-style data set; their completions make a RankingBatch."""

    store: TokenStore  # for each comparison its prompt and then its completions
    comparisons: Sequence[Judged]
    first: Sequence[int]  # where a comparison's prompt is in the store
    cut: Sequence[int]  # tokens taken away from the prompt's left
    device: str = "cpu"  # the type of what reads the batches

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
        """P comparisons with N completions in all to a RankingBatch."""
        prompts = [g.prompt.astype(np.int64) for g in groups]
        rows = [(prompts[p], c.astype(np.int64)) for p, g in enumerate(groups) for c in g.completions]
        last = [k == len(g.completions) - 1 and g.judged.attacked for g in groups for k in range(len(g.completions))]
        return ranking_batch(
            rows,
            [p for p, g in enumerate(groups) for _ in g.completions],
            [rank for g in groups for rank in g.judged.ranks],
            [g.judged.weight for g in groups],
            margins=[g.judged.margin for g in groups],
            annotators=[g.judged.annotator for g in groups],
            attacked=last,
            device=self.device,
        )


def ranking_batch(
    rows: Sequence[TokenRow],
    groups: Sequence[int],
    ranks: Sequence[int],
    weights: Sequence[float],
    *,
    margins: Sequence[float] | None = None,
    annotators: Sequence[int] | None = None,
    attacked: Sequence[bool] | None = None,
    device: str = "cpu",
) -> RankingBatch:
    """N completions of P prompts, packed and checked.

    Args:
        rows: N prompts with a completion each.
        groups, ranks, attacked: N, as ``RankingBatch`` has them; attacked: it is an attack, that nobody ranked.
        weights, margins, annotators: P.
        device: the type of what will read them ("cpu", "cuda").

    Raises UserError naming the completion or prompt of the batch and what would be right.
    """
    check_rows(rows, "rankings")
    numbers, order = torch.as_tensor(groups), torch.as_tensor(ranks)
    ahead = None if margins is None else torch.as_tensor(margins, dtype=torch.float32)
    marks = None if attacked is None else torch.as_tensor(attacked, dtype=torch.bool)
    batch = RankingBatch(
        pack(rows, device),
        numbers,
        order,
        torch.as_tensor(weights, dtype=torch.float32),
        torch.stack(strict_pairs(numbers, order)),
        ahead if ahead is not None and ahead.any() else None,
        None if annotators is None else torch.as_tensor(annotators),
    )
    check_rankings(batch._replace(margins=ahead), marks)
    return batch if marks is None or not marks.any() else batch._replace(attacks=_attacks(numbers, order, ~marks))


def _attacks(groups: Tensor, ranks: Tensor, answers: Tensor) -> Attacks:
    """``answers`` (N,) bool: which of the completions are none."""
    people = torch.stack(strict_pairs(groups[answers], ranks[answers]))
    below = torch.stack(strict_pairs(groups, 2 - answers.long()))  # the answers are tied above an attack
    return Attacks(answers.nonzero().flatten(), people, below)
