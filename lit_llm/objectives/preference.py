"""Losses that learn directly from judged completions: DPO and its family on pairs, KTO on single ones.

Every loss of pairs takes ``Pairs`` and returns ``PairLosses``: one loss a pair, unreduced, and the implicit rewards,
detached. h = log pi - log pi_ref, summed over the completion. Losses marked ``reference_free`` never read the
reference's values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lit_llm.objectives.options import (
    DPOOptions,
    HingeOptions,
    IPOOptions,
    ORPOOptions,
    RobustDPOOptions,
    SimPOOptions,
    check_beta,
    check_kto,
)


class Pairs(NamedTuple):
    """Log-probabilities of M chosen and rejected completions, summed over their tokens (end token included)."""

    chosen: Tensor  # (M,) float32, under the policy
    rejected: Tensor  # (M,)
    reference_chosen: Tensor  # (M,) under the frozen reference
    reference_rejected: Tensor  # (M,)
    chosen_tokens: Tensor  # (M,) int64: length of the completion
    rejected_tokens: Tensor  # (M,)

    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """h of the chosen and of the rejected completions."""
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected


class PairLosses(NamedTuple):
    losses: Tensor  # (M,), carries the gradient
    chosen_rewards: Tensor  # (M,) implicit reward, detached
    rejected_rewards: Tensor  # (M,)


PreferenceLoss = Callable[[Pairs], PairLosses]
_Function = TypeVar("_Function", bound=Callable[..., PairLosses])


def _reference_free(function: _Function) -> _Function:
    function.reference_free = True  # type: ignore[attr-defined]
    return function


def dpo(
    pairs: Pairs,
    beta: float = DPOOptions.beta,
    label_smoothing: float = DPOOptions.label_smoothing,
    length_normalized: bool = DPOOptions.length_normalized,
    margins: Tensor | float = 0.0,
) -> PairLosses:
    """``-(1-e) log sigmoid(beta D - m) - e log sigmoid(-beta D - m)``, D = h_chosen - h_rejected.

    DPO, arXiv:2305.18290, equation 7; with ``label_smoothing`` e, the conservative DPO of its authors. beta > 0.
    ``margins`` m (M,), by how much each chosen one must be ahead, are the offsets of ODPO (arXiv:2402.10571).
    ``length_normalized``: ``D = h_chosen / |y_chosen| - h_rejected / |y_rejected|``, so that length earns nothing
    (Tulu 3, arXiv:2411.15124, section 5.1; with beta = 5 there).
    """
    check_beta(beta, label_smoothing)
    chosen, rejected = pairs.log_ratios()
    if length_normalized:
        chosen, rejected = chosen / pairs.chosen_tokens, rejected / pairs.rejected_tokens
    logits = beta * (chosen - rejected)
    right, flipped = F.logsigmoid(logits - margins), F.logsigmoid(-logits - margins)
    losses = -(1 - label_smoothing) * right - label_smoothing * flipped
    return _with_rewards(losses, beta * chosen, beta * rejected)


def robust_dpo(
    pairs: Pairs, beta: float = RobustDPOOptions.beta, label_smoothing: float = RobustDPOOptions.label_smoothing
) -> PairLosses:
    """DPO unbiased when a share e < 0.5 of the labels is flipped: ``(-(1-e) ls(beta D) + e ls(-beta D)) / (1 - 2e)``.

    Robust DPO, arXiv:2403.00409.
    """
    check_beta(beta, label_smoothing)
    chosen, rejected = pairs.log_ratios()
    logits, e = beta * (chosen - rejected), label_smoothing
    losses = (-(1 - e) * F.logsigmoid(logits) + e * F.logsigmoid(-logits)) / (1 - 2 * e)
    return _with_rewards(losses, beta * chosen, beta * rejected)


def hinge(pairs: Pairs, beta: float = HingeOptions.beta) -> PairLosses:
    """``relu(1 - beta D)``: SLiC's hinge on normalised likelihoods (arXiv:2309.06657)."""
    check_beta(beta)
    chosen, rejected = pairs.log_ratios()
    return _with_rewards(torch.relu(1 - beta * (chosen - rejected)), beta * chosen, beta * rejected)


def ipo(pairs: Pairs, beta: float = IPOOptions.beta) -> PairLosses:
    """``(h_c/n_c - h_r/n_r - 1/(2 beta))^2``: does not run off when a preference is deterministic.

    IPO, arXiv:2310.12036, equation 17, on log-ratios averaged over tokens as its authors recommend.
    """
    check_beta(beta)
    chosen, rejected = pairs.log_ratios()
    gap = chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens
    return _with_rewards((gap - 1 / (2 * beta)).square(), beta * chosen, beta * rejected)


@_reference_free
def orpo(pairs: Pairs, lambda_: float = ORPOOptions.lambda_) -> PairLosses:
    """``NLL_chosen - lambda log sigmoid(log-odds_c - log-odds_r)`` of mean log-probs (arXiv:2403.07691, equation 6)."""
    check_beta(lambda_, name="lambda_")
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    losses = -chosen - lambda_ * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))
    return _with_rewards(losses, lambda_ * chosen, lambda_ * rejected)


@_reference_free
def simpo(
    pairs: Pairs,
    beta: float = SimPOOptions.beta,
    gamma: float = SimPOOptions.gamma,
    label_smoothing: float = SimPOOptions.label_smoothing,
) -> PairLosses:
    """``-(1-e) log sigmoid(z) - e log sigmoid(-z)``, z = beta (m_c - m_r) - gamma, m the mean log-probability.

    SimPO, arXiv:2405.14734, equation 6; with ``label_smoothing`` e as in its authors' code.
    """
    check_beta(beta, label_smoothing)
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    logits = beta * (chosen - rejected) - gamma
    losses = -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
    return _with_rewards(losses, beta * chosen, beta * rejected)


def kto(
    log_ratios: Tensor,
    labels: Tensor,
    baseline: Tensor,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``w (1 - sigmoid(beta (h - z)))`` for a good completion, ``w (1 - sigmoid(beta (z - h)))`` for a bad one.

    KTO, arXiv:2402.01306, equation 8, with each label's own weight w.

    Args:
        log_ratios: h (N,), policy against reference.
        labels: (N,) bool, good or bad.
        baseline: z (), ``kto_baseline``.

    Returns:
        The losses (N,), and the implicit rewards beta h (N,), detached.
    """
    check_kto(beta, desirable_weight, undesirable_weight)
    signed = torch.where(labels, log_ratios - baseline, baseline - log_ratios)
    weights = torch.where(labels, log_ratios.new_tensor(desirable_weight), log_ratios.new_tensor(undesirable_weight))
    return weights * torch.sigmoid(-beta * signed), beta * log_ratios.detach()


def kto_baseline(log_ratios: Tensor) -> Tensor:
    """z = max(0, mean h) of prompts with completions of other prompts, detached: how far the policy is from the
    reference (equation 7 there).

    log_ratios: (M,). Over all ranks alike, so that every process compares with the same z.
    """
    total = torch.stack([log_ratios.detach().double().sum(), log_ratios.new_tensor(len(log_ratios)).double()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return (total[0] / total[1].clamp_min(1)).clamp_min(0).to(log_ratios.dtype)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)). A probability that rounds to 1 is taken as just below it."""
    return logp - torch.log(-torch.expm1(logp.clamp_max(-1e-7)))


def _with_rewards(losses: Tensor, chosen: Tensor, rejected: Tensor) -> PairLosses:
    return PairLosses(losses, chosen.detach(), rejected.detach())
