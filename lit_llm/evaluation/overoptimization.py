"""How a reward that is optimised departs from the one that is meant, over the distance d = sqrt(KL) from the start.

Gao, Schulman and Hilton 2023, arXiv:2210.10760.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Form = Literal["rl", "best_of_n"]


class Fit(NamedTuple):
    """``R = start + d (alpha - beta ln d)`` of reinforcement learning (equation 2 there), or of best-of-n
    ``R = start + d (alpha - beta d)`` (equation 1 there). ``peak`` is the d > 0 where R is largest, None where there is
    none."""

    alpha: float
    beta: float
    start: float  # the reward at d = 0
    r2: float  # share of the variance that the curve explains; nan where the rewards do not vary
    rmse: float  # of the n points, in the reward's units
    n: int
    form: Form = "rl"

    @property
    def peak(self) -> float | None:
        """R' = 0: alpha = beta (1 + ln d), or alpha = 2 beta d."""
        if self.form == "best_of_n":
            return self.alpha / (2 * self.beta) if self.alpha > 0 and self.beta > 0 else None
        exponent = self.alpha / self.beta - 1 if self.beta > 0 else math.inf
        return math.exp(exponent) if exponent < 700 else None

    def __call__(self, distance: float) -> float:
        return self.start + self.alpha * distance - self.beta * _bend(distance, self.form)

    def as_plain(self) -> dict[str, Any]:
        values = self._asdict()
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def fit(distances: ArrayLike, rewards: ArrayLike, start: float | None = None, form: Form = "rl") -> Fit | None:
    """The curve of least squares through rewards (n,) at d (n,); d = 0 is a point like others.

    ``form``: what the rewards are of, reinforcement learning or best-of-n.

    ``start``: the reward at d = 0 where it is known; else it is fitted too. None where there are fewer points, at
    different d, than numbers to find.
    """
    d, y = np.asarray(distances, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    kept = np.isfinite(d) & np.isfinite(y) & (d >= 0)
    d, y = d[kept], y[kept]
    columns = [d, -np.array([_bend(x, form) for x in d])]
    columns = columns if start is not None else [*columns, np.ones_like(d)]
    if len(np.unique(d[d > 0])) < 2 or len(np.unique(d)) < len(columns):
        return None
    design = np.stack(columns, axis=1)
    target = y - (start or 0.0)
    found, *_ = np.linalg.lstsq(design, target, rcond=None)
    residual = target - design @ found
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(residual @ residual) / total if total > 0 else math.nan
    begins = float(found[2]) if start is None else start
    return Fit(
        float(found[0]), float(found[1]), begins, r2, math.sqrt(float(residual @ residual) / len(d)), len(d), form
    )


def _bend(distance: float, form: Form) -> float:
    """What beta takes away: d ln d (0 at d = 0), or d^2."""
    if form == "best_of_n":
        return distance**2
    return distance * math.log(distance) if distance > 0 else 0.0
