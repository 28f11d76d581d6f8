"""Attacks among ranked completions: nobody ranked them, so they are kept apart from what people said."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.objectives.ranking import bradley_terry, strict_pairs
from lit_llm.records import RankingBatch


def answers_in(batch: RankingBatch) -> Tensor:
    """Which completions (N,) bool are answers, and no attacks."""
    if batch.attacked is None:
        return torch.ones_like(batch.groups, dtype=torch.bool)
    return ~batch.attacked


def without_attacks(scores: Tensor, batch: RankingBatch) -> tuple[Tensor, RankingBatch]:
    """The scores and the rows of the answers alone, as people ranked them."""
    if batch.attacked is None or not bool(batch.attacked.any()):
        return scores, batch
    kept = answers_in(batch)
    rows = {name: getattr(batch, name)[kept] for name in ("input_ids", "lengths", "prompt_lengths", "groups", "ranks")}
    return scores[kept], batch._replace(**rows, attacked=None)


def attack_loss(scores: Tensor, batch: RankingBatch) -> Tensor:
    """Bradley-Terry of each answer against its prompt's attack, ``1/#answers * sum -log sigmoid(s - s_attack)``.

    Summed over the prompts of which people order some answers, with their weights: the others are not counted.
    """
    _, people = without_attacks(scores, batch)
    winners, _ = strict_pairs(people.groups, people.ranks)
    ordered = torch.zeros_like(batch.weights).index_fill_(0, people.groups[winners], 1.0)
    ranks = 2 - answers_in(batch).long()  # the answers are tied: only an attack stands below them
    return bradley_terry(scores, batch.groups, ranks, batch.weights * ordered)[0]
