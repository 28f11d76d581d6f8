"""Losses of a reward model over ranked completions: rank 1 is best, equal ranks are ties.

Every loss here takes ``scores`` (N,), ``groups`` (N,) the prompt of each completion, ``ranks`` (N,) and ``weights``
(P,) of the prompts' annotators, and returns the loss summed over prompts with its count, both weighted. A tie says
nothing about its two items; a prompt whose completions are all tied is not counted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.objectives.options import BradleyTerryOptions


def strict_pairs(groups: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (M,), (M,) of the better and the worse completion of every pair with different ranks in one group."""
    better = (groups[:, None] == groups[None, :]) & (ranks[:, None] < ranks[None, :])
    winners, losers = better.nonzero(as_tuple=True)
    return winners, losers


def bradley_terry(
    scores: Tensor,
    groups: Tensor,
    ranks: Tensor,
    weights: Tensor,
    margins: Tensor | None = None,
    centering: float = BradleyTerryOptions.centering,
    margin: float = BradleyTerryOptions.margin,
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``1/#pairs * sum over pairs of -log sigmoid(s_w - s_l - margin) + centering (s_w + s_l)^2``, summed over prompts.

    All pairs of a prompt count as one item, since they are correlated (InstructGPT, arXiv:2203.02155, equation 1).
    ``margin`` is for all pairs, ``margins`` (P,) for those of each prompt, as annotators said how much better (Llama 2,
    arXiv:2307.09288, equation 2); they are added.
    ``centering`` keeps scores near zero without deciding any pair (arXiv:2312.09244, equation 2; 0.01 is usual).
    ``pairs`` (2, M) are the ``strict_pairs`` where they are known: to find them waits for the device.
    """
    winners, losers = strict_pairs(groups, ranks) if pairs is None else pairs
    scores = _wide(scores)
    won, lost = scores[winners], scores[losers]
    prompts = groups[winners]
    ahead = margin if margins is None else margin + margins[prompts]
    each = -F.logsigmoid(won - lost - ahead) + centering * (won + lost).square()
    pairs = torch.zeros_like(weights).index_add_(0, prompts, torch.ones_like(each, dtype=weights.dtype))
    loss = (each * (weights / pairs.clamp_min(1))[prompts]).sum()
    return loss, (weights * (pairs > 0)).sum()


def plackett_luce(scores: Tensor, groups: Tensor, ranks: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the whole ranking, ``sum_i [logsumexp(s_i, all s_j ranked below i) - s_i]``.

    Plackett (1975): the best is chosen among all, the next among the rest, and so on. Tied items do not compete with
    each other. With two items this is Bradley-Terry. A partial ranking is a ranking of those that were ranked, or has
    those that were not in one last tie.
    """
    scores = _wide(scores)
    below = (groups[:, None] == groups[None, :]) & (ranks[:, None] < ranks[None, :])  # j stands below i
    rivals = below | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    chosen_among = torch.where(rivals, scores[None, :], -torch.inf).logsumexp(dim=1)
    loss = ((chosen_among - scores) * weights[groups]).sum()
    counted = torch.zeros_like(weights).index_add_(0, groups, below.any(1).to(weights.dtype)) > 0
    return loss, (weights * counted).sum()


def _wide(scores: Tensor) -> Tensor:
    """At least float32: bfloat16 would round a difference of scores away."""
    return scores if scores.dtype == torch.float64 else scores.float()


def gamma_prior(log_values: Tensor, shape: float, rate: float) -> Tensor:
    """``-log Gamma(value; shape, rate)`` of each positive value, up to a constant that makes it 0 at 1: (A,) -> (A,).

    The prior of an annotator's adherence, by which the scores are multiplied where that annotator ranked (Raman and
    Joachims 2014, "Methods for ordinal peer grading"; Turner et al. 2020, "Modelling rankings in R: the PlackettLuce
    package", whose default is shape = rate = 10).
    Without it the likelihood drives who always agrees to infinity and who disagrees to zero.
    """
    return rate * (log_values.exp() - 1) - (shape - 1) * log_values
