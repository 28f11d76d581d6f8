"""How many there really are, from what an imperfect classifier finds (Rogan and Gladen 1978)."""

from __future__ import annotations

import math

from lit_llm.evaluation.statistics import Estimate, wilson_interval


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


def interval(value: Estimate, z: float = 1.959964) -> tuple[float, float]:
    """The 95% bounds mean -+ z se of a share, kept within 0 and 1; where none or all of n were counted, Wilson's."""
    if value.se == 0 and value.mean in (0.0, 1.0):
        return wilson_interval(round(value.mean * value.n), value.n, z)
    half = z * value.se if math.isfinite(value.se) else 1.0
    return max(0.0, value.mean - half), min(1.0, value.mean + half)
