"""Attacks among ranked completions: nobody ranked them, so they are kept apart from what people said."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.objectives.ranking import bradley_terry
from lit_llm.records import Attacks, RankingBatch


def of_answers(values: Tensor, batch: RankingBatch) -> Tensor:
    """Of values of the completions (N,) those of answers, and no attacks: (N',)."""
    return values if batch.attacks is None else values[batch.attacks.answers]


def without_attacks(batch: RankingBatch) -> RankingBatch:
    """The groups, ranks and pairs of the answers alone, as people ranked them."""
    if batch.attacks is None:
        return batch
    groups, ranks = of_answers(batch.groups, batch), of_answers(batch.ranks, batch)
    return batch._replace(groups=groups, ranks=ranks, pairs=batch.attacks.pairs, attacks=None)


def attack_loss(scores: Tensor, batch: RankingBatch, attacks: Attacks) -> Tensor:
    """Bradley-Terry of each answer against its prompt's attack, ``1/#answers * sum -log sigmoid(s - s_attack)``.

    Summed over the prompts of which people order some answers, with their weights: the others are not counted.
    """
    winners = attacks.answers[attacks.pairs[0]]
    ordered = torch.zeros_like(batch.weights).index_fill_(0, batch.groups[winners], 1.0)
    ranks = torch.full_like(batch.ranks, 2).index_fill_(0, attacks.answers, 1)  # the answers are tied above an attack
    return bradley_terry(scores, batch.groups, ranks, batch.weights * ordered, pairs=attacks.below)[0]
