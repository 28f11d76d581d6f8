"""PPO's mathematics over completions as a dense matrix (B, C): row b, completion token t; ``mask`` is true on tokens.

Values at masked places may be anything (they are never read), but must be finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""Adds a sum () up over the processes that share a batch between them."""


LARGEST_LOG_RATIO = 20.0
"""Beyond it a ratio, e^20, is taken as constant: an infinite one would give the bound on it the gradient nan."""


def alone(value: Tensor) -> Tensor:
    """The ``Total`` of a single process."""
    return value


def masked_mean(values: Tensor, mask: Tensor, total: Total = alone) -> Tensor:
    """Mean over the true places of ``mask``, in all processes of ``total``: (), 0 when there is none."""
    return total(torch.where(mask, values, 0).sum()) / total(mask.sum()).clamp_min(1)


def masked_variance(values: Tensor, mask: Tensor, total: Total = alone) -> Tensor:
    """Unbiased variance over the true places: (); 0 for fewer than two."""
    deviation = torch.where(mask, values - masked_mean(values, mask, total), 0)
    return total(deviation.square().sum()) / (total(mask.sum()) - 1).clamp_min(1)


def whiten(values: Tensor, mask: Tensor, total: Total = alone) -> Tensor:
    """Mean 0 and variance 1 under the mask, in all processes of ``total`` together, eps 1e-8; 0 outside."""
    white = (values - masked_mean(values, mask, total)) * torch.rsqrt(masked_variance(values, mask, total) + 1e-8)
    return torch.where(mask, white, 0)


def kl_k1(logps: Tensor, reference: Tensor) -> Tensor:
    """``log p/q`` at samples of p: unbiased for KL(p, q), may be negative (Schulman, "Approximating KL", 2020)."""
    return logps - reference


def kl_k3(logps: Tensor, reference: Tensor) -> Tensor:
    """``q/p - 1 - log q/p``: unbiased and never negative."""
    log_ratio = (reference - logps).clamp(max=LARGEST_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """``-kl_coef * kl`` at every token, plus the score (B,) at the last valid one (InstructGPT, eq. 2): (B, C).

    A row without any token gets nothing.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    last = (mask.sum(1) - 1).clamp_min(0).unsqueeze(1)
    return rewards.scatter_add(1, last, torch.where(mask.any(1), scores.to(rewards.dtype), 0.0).unsqueeze(1))


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    after: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv:1506.02438, equation 16): advantages (B, C), returns A + V; 0 outside.

    ``delta_t = r_t + gamma V_(t+1) - V_t``; ``A_t = delta_t + gamma lam A_(t+1)``. Past the last token V is ``after``
    (B,), the value of the state that an answer was cut in (partial-episode bootstrapping, arXiv:1712.00378, equation
    6), or 0. The mask is a prefix of each row.
    """
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    end = following if after is None else after.to(values.dtype)
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    for t in range(values.shape[1] - 1, -1, -1):
        next_value = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * torch.where(last[:, t], end, next_value) - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
    return advantages, torch.where(mask, advantages + values, 0)


def ppo_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps))``, rho = exp(new - old) (PPO, arXiv:1707.06347, equation 7).

    With ``clip_range_high`` the upper bound is its own, ``clip(rho, 1 - eps_low, 1 + eps_high)`` (clip-higher of DAPO,
    arXiv:2503.14476, equation 10): what was unlikely may become likelier by more, which keeps the entropy up.

    Metrics, detached, under the mask: ``policy/approx_kl`` (k2 of old against new), ``policy/clipfrac`` (share of
    tokens where the clipped term is the larger), ``policy/ratio`` (mean).
    """
    log_ratio = torch.where(mask, logps - old_logps, 0)
    ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    free = -advantages * ratio
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + high)
    metrics = {
        "policy/approx_kl": masked_mean(0.5 * log_ratio.detach().square(), mask),
        "policy/clipfrac": masked_mean((clipped > free).float(), mask),
        "policy/ratio": masked_mean(ratio.detach(), mask),
    }
    return masked_mean(torch.maximum(free, clipped), mask), metrics


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float = 0.2
) -> tuple[Tensor, dict[str, Tensor]]:
    """``1/2 mean max((V - R)^2, (clip(V, V_old +- eps) - R)^2)``; metric ``val/clipfrac``.

    The clipped form of the PPO implementation of arXiv:2005.12729, section 3.
    """
    near = torch.minimum(torch.maximum(values, old_values - clip_range), old_values + clip_range)
    free, clipped = (values - returns).square(), (near - returns).square()
    metrics = {"val/clipfrac": masked_mean((clipped > free).float(), mask)}
    return 0.5 * masked_mean(torch.maximum(free, clipped), mask), metrics


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total = alone) -> Tensor:
    """``1 - Var(R - V) / Var(R)``: 1 is a perfect value function, 0 a constant, below 0 worse than one. ``total`` as of
    ``masked_mean``."""
    return 1 - masked_variance(returns - values, mask, total) / masked_variance(returns, mask, total).clamp_min(1e-8)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, horizon: float, samples: int) -> float:
    """The adaptive coefficient of arXiv:1909.08593, section 2.2: up when the KL of a rollout is above ``target``.

    The relative error is clipped at 0.2; ``horizon`` is the number of samples over which a constant error e changes the
    coefficient by the share e.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * samples / horizon)
