"""How often at least one of k answers is right, estimated from more answers than k."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(right: ArrayLike, answers: int, k: int) -> NDArray[np.float64]:
    """The unbiased estimate for each problem (P,), of which ``right`` (P,) of so many ``answers`` are right.

    ``1 - C(n - c, k) / C(n, k)``, as a product that does not overflow (Chen et al. 2021, arXiv:2107.03374, equation 1).
    """
    if not 1 <= k <= answers:
        raise ValueError(f"k={k}: must be from 1 to the {answers} answers of a problem")
    count = np.asarray(right, dtype=np.float64)[:, None]
    terms = np.arange(answers - k + 1, answers + 1)  # C(n-c, k) / C(n, k) = prod over i of (1 - c / i)
    found: NDArray[np.float64] = 1 - np.clip(1 - count / terms, 0, None).prod(axis=1)
    return found


def doublings(answers: int) -> list[int]:
    """1, 2, 4, ... up to the number of answers: the k that are worth a curve."""
    return [2**power for power in range(answers.bit_length())]
