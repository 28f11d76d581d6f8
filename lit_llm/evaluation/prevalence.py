"""How many there really are, from what an imperfect classifier finds (Rogan and Gladen 1978).

Intervals are Wilson's and, for the corrected rate, Lang and Reiczigel's (2014, Preventive Veterinary Medicine
113): a rate near 0 has no symmetric one.
"""

from __future__ import annotations

import math

from lit_llm.evaluation.statistics import Estimate, wilson_interval

Z = 1.959964  # 95%, two-sided


def rogan_gladen(rate: Estimate, sensitivity: Estimate, specificity: Estimate) -> Estimate | None:
    """p = (rate + specificity - 1) / (sensitivity + specificity - 1), at least 0 and at most 1.

    Its standard error is the delta method's, the three being measured on independent samples (eq. 3 there):
    (se(rate)^2 + (1 - p)^2 se(specificity)^2 + p^2 se(sensitivity)^2)^(1/2) / (sensitivity + specificity - 1).
    ``n`` is the rate's. None where the classifier does not tell the two apart better than chance (J <= 0).
    """
    informedness = sensitivity.mean + specificity.mean - 1
    if not (math.isfinite(informedness) and informedness > 0 and math.isfinite(rate.mean)):
        return None
    raw = (rate.mean + specificity.mean - 1) / informedness
    variance = rate.se**2 + ((1 - raw) * specificity.se) ** 2 + (raw * sensitivity.se) ** 2
    return Estimate(min(1.0, max(0.0, raw)), math.sqrt(variance) / informedness, rate.n)


def interval(value: Estimate, z: float = Z) -> tuple[float, float]:
    """The 95% bounds of a share: Wilson's, of as many independent items as have this standard error."""
    size = _size(value)
    return wilson_interval(value.mean * size, size, z) if size else (0.0, 1.0)


def corrected_interval(
    rate: Estimate, sensitivity: Estimate, specificity: Estimate, z: float = Z
) -> tuple[float, float]:
    """The 95% bounds of ``rogan_gladen``, kept within 0 and 1; (0, 1) where the classifier cannot tell.

    All three are taken as measured on independent samples. Prompts that have flagged and unflagged held-out answers, or
    whose answers are rated too, let them vary together, by their covariances, which are left out: the bounds are then
    too wide where sensitivity and specificity rise and fall together, and too narrow where one is had for the other.
    """
    (p, n), (se, m), (sp, k) = (
        _centred(one, of) for one, of in ((rate, z * z), (sensitivity, 2.0), (specificity, 2.0))
    )
    informedness = se + sp - 1
    if not (math.isfinite(informedness) and informedness > 0 and math.isfinite(p)):
        return 0.0, 1.0
    centre = (p + sp - 1) / informedness
    spread_se, spread_sp = se * (1 - se) / m, sp * (1 - sp) / k
    shift = 2 * z * z * (centre * spread_se - (1 - centre) * spread_sp)
    variance = p * (1 - p) / n + centre**2 * spread_se + (1 - centre) ** 2 * spread_sp
    half = z * math.sqrt(variance) / informedness
    low, high = (min(1.0, max(0.0, centre + shift + sign * half)) for sign in (-1, 1))
    return low, high


def _centred(share: Estimate, more: float) -> tuple[float, float]:
    """The share, pulled to a half by so many more items, half of them successes; and how many items that makes."""
    size = _size(share)
    if not size:
        return math.nan, 0.0
    return (share.mean * size + more / 2) / (size + more), size + more


def _size(share: Estimate) -> float:
    """How many independent items know as much: p (1 - p) / se^2; n where none or all were counted; 0: not known."""
    if share.n and share.se == 0 and math.isfinite(share.mean):
        return float(share.n)
    if not (math.isfinite(share.mean) and math.isfinite(share.se) and share.se > 0):
        return 0.0
    return share.mean * (1 - share.mean) / share.se**2 or float(share.n)
