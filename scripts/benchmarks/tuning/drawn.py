"""Documents whose lengths are drawn with a seed."""

from __future__ import annotations

import numpy as np

FIRST_ID = 3
"""Ids below stand for padding and ends in every contestant; drawn tokens have none of them."""


def drawn_length(rng: np.random.Generator, median_and_sigma: tuple[float, float], most: int) -> int:
    """Lognormal tokens of this median, from 4 to ``most``; sigma is that of their logarithm."""
    median, sigma = median_and_sigma
    return int(np.clip(rng.lognormal(np.log(median), sigma), 4, most))
