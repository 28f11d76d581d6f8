"""GRPO's mathematics: advantages within groups of answers to one prompt, and the clipped loss over their tokens.

Rows are answers, B = P * G: the G answers of a prompt stand side by side. Tokens are a dense matrix (B, C), answer b's
token c; ``mask`` is true on tokens. GRPO: DeepSeekMath (arXiv:2402.03300); ``scale="none"`` and ``constant``: Dr. GRPO
(arXiv:2503.20783); ``eps_high`` and ``token_mean``: DAPO (arXiv:2503.14476); ``scale="batch"``: arXiv:2508.08221;
``ratio="sequence"``: GSPO (arXiv:2507.18071); ``delta``: INTELLECT-2 (arXiv:2505.07291).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.errors import UserError
from lit_llm.objectives.options import AGGREGATIONS, SCALES, check_ratio
from lit_llm.objectives.policy import LARGEST_LOG_RATIO, kl_k3

SCALE_EPS = 1e-4  # added to a standard deviation, in units of the reward


def check_groups(rows: int, group_size: int) -> None:
    """Raises UserError unless ``rows`` answers are whole groups of ``group_size``, at least 2."""
    if group_size < 2:
        raise UserError(f"group_size: {group_size}; must be 2 or more, to measure an answer by the others of its group")
    if rows % group_size:
        raise UserError(f"group_size: {rows} answers are no whole groups of {group_size}; must be a multiple of it")


def group_advantages(rewards: Tensor, group_size: int, scale: str = "none", batch_std: Tensor | None = None) -> Tensor:
    """``A = r - mean of its group`` (B,), divided by a standard deviation: the group's, the batch's, or none.

    A reward that is NaN was not verified: it is out of every mean and deviation, and its advantage is 0. So is every
    advantage of a group whose rewards are equal, exactly. Deviations are unbiased, ``SCALE_EPS`` added.

    Args:
        rewards: (B,), not infinite.
        batch_std: () for ``scale="batch"``, where the batch is larger than ``rewards`` (several processes).
    """
    check_groups(len(rewards), group_size)
    groups = rewards.view(-1, group_size)
    known = ~groups.isnan()
    varied = (known & ~equal_rewards(rewards, group_size)[:, None]) if len(groups) else known
    deviation = torch.where(varied, groups - groups.nanmean(1, keepdim=True), 0)
    if scale == "group":
        squares = deviation.square().sum(1, keepdim=True)
        deviation = deviation / ((squares / (known.sum(1, keepdim=True) - 1).clamp_min(1)).sqrt() + SCALE_EPS)
    elif scale == "batch":
        deviation = deviation / ((reward_std(rewards) if batch_std is None else batch_std) + SCALE_EPS)
    elif scale != "none":
        raise UserError(f"scale: {scale}; must be one of {', '.join(SCALES)}")
    return deviation.reshape(-1)


def equal_rewards(rewards: Tensor, group_size: int) -> Tensor:
    """(P,) bool: the group teaches nothing, its verified rewards being equal (or fewer than two)."""
    groups = rewards.view(-1, group_size)
    unknown = groups.isnan()
    low = groups.masked_fill(unknown, torch.inf).amin(1)
    high = groups.masked_fill(unknown, -torch.inf).amax(1)
    return ~(high > low)


def reward_std(rewards: Tensor) -> Tensor:
    """(): unbiased standard deviation of the verified rewards (B,); 0 for fewer than two."""
    known = rewards[~rewards.isnan()]
    return known.std() if len(known) > 1 else rewards.new_zeros(())


def token_weights(
    mask: Tensor,
    aggregation: str = "token_mean",
    max_length: int | None = None,
    tokens: Tensor | None = None,
    answers: Tensor | None = None,
) -> Tensor:
    """(B, C): what each token's term weighs in the loss of this batch; 0 outside the mask.

    token_mean: 1 / all tokens, so that every token counts alike. sequence_mean: 1 / (B * the answer's tokens), so that
    every answer does. constant: 1 / (B * max_length), which favours neither short nor long answers. They are of the
    whole batch: micro-batches take their rows of them and add up to the same loss.

    Args:
        max_length: tokens that an answer may have, for ``constant``.
        tokens, answers: () for ``token_mean`` and for the other two: tokens and answers of a batch, averaged over
            processes, where there are several.
    """
    rows = torch.full((), float(len(mask)), device=mask.device) if answers is None else answers
    if aggregation == "token_mean":
        return mask / (mask.sum() if tokens is None else tokens).clamp_min(1)
    if aggregation == "sequence_mean":
        return mask / (mask.sum(1, keepdim=True).clamp_min(1) * rows)
    if aggregation == "constant" and max_length:
        return mask / (rows * max_length)
    raise UserError(f"aggregation: {aggregation}; must be one of {', '.join(AGGREGATIONS)}, constant with a length")


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    weights: Tensor,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
    reference: Tensor | None = None,
    kl_coef: float = 0.0,
    ratio: str = "token",
    delta: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``sum weights * (-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) + kl_coef * rho_t * k3)``.

    rho_t = exp(new - old) of token t, and rho = rho_t. DeepSeekMath, equation 3, with the two bounds of DAPO's equation
    10. The KL term is multiplied by rho_t: k3 alone has the gradient of KL(reference || policy), and k1 in the loss
    none at all; rho_t * k3 has that of KL(policy || reference), also when the answers are those of an older policy.

    ``ratio="sequence"``: rho = s = (pi(y) / pi_old(y))^(1/|y|) = exp(mean_t (new - old)), one for the whole answer
    (GSPO, equation 7); with weights of ``sequence_mean`` the loss is minus its equation 5. Its bounds are of another
    order: 3e-4 and 4e-4 there.

    ``delta``: ``-min(min(rho, delta) A, clip(rho, ...) A)``, two-sided clipping (INTELLECT-2; ``delta`` of TRL's
    GRPOConfig). Without it rho A has no bound where A < 0. It is larger than 1 + eps_high.

    Args:
        logps, old_logps, reference: (B, C), any finite value outside the mask.
        advantages: (B,), one for all tokens of an answer.
        weights: (B, C) of ``token_weights``; what it gives 0 takes no part.

    Returns:
        The loss (), and metrics summed over tokens, detached: ``tokens``, ``policy/clip_low`` and ``policy/clip_high``
        (where the lower or upper bound holds the gradient back), ``policy/clip_delta`` (where ``delta`` does),
        ``policy/ratio`` (rho), ``policy/approx_kl`` (k2 of old against new).

    Raises UserError for another ``ratio``, or a ``delta`` that is not above 1 + eps_high.
    """
    check_ratio(ratio, delta, eps_high)
    mask = weights > 0
    log_ratio = torch.where(mask, logps - old_logps, 0).clamp(max=LARGEST_LOG_RATIO)
    gain, of_tokens = advantages[:, None], log_ratio.exp()
    if ratio == "sequence":
        rho = (log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)).exp()
    else:
        rho = of_tokens
    free = rho if delta is None else rho.clamp(max=delta)
    terms = -torch.minimum(free * gain, rho.clamp(1 - eps_low, 1 + eps_high) * gain)
    if reference is not None and kl_coef:
        terms = terms + kl_coef * of_tokens * kl_k3(torch.where(mask, logps, 0), torch.where(mask, reference, 0))
    seen = rho.detach()
    metrics = {
        "tokens": mask.sum().float(),
        "policy/clip_low": (mask & (seen < 1 - eps_low) & (gain < 0)).sum().float(),
        "policy/clip_high": (mask & (seen > 1 + eps_high) & (gain > 0)).sum().float(),
        "policy/ratio": torch.where(mask, seen, 0).sum(),
        "policy/approx_kl": 0.5 * log_ratio.detach().square().sum(),
    }
    if delta is not None:
        metrics["policy/clip_delta"] = (mask & (seen > delta) & (gain < 0)).sum().float()
    return (weights * terms).sum(), metrics
