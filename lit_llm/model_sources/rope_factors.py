"""Stretched frequencies: Llama 3.1's, of which a GGUF file keeps only a divisor for each pair; by how much yarn and
longrope sharpen attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_LOW, _HIGH = 1.0, 4.0  # as every release of Llama 3.1, 3.2 and 3.3 has them


def llama3_factors(scaling: Mapping[str, Any], theta: float, width: int) -> list[float]:
    """What each of the ``width // 2`` frequencies is divided by (Llama 3.1's release, ``apply_scaling``)."""
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = scaling["original_max_position_embeddings"]
    found = []
    for n in range(width // 2):
        wavelength = 2 * math.pi * theta ** (2 * n / width)
        smooth = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def llama3_scaling(factors: np.ndarray[Any, Any], theta: float, width: int) -> dict[str, Any] | None:
    """The settings that give these divisors; None where none of the usual ones do.

    The longest wavelength is divided by the whole factor; the blend tells the original context, a power of two.
    """
    factor = float(str(np.float32(factors.max())))
    for exponent in range(10, 21):
        scaling = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": _LOW, "high_freq_factor": _HIGH,
            "original_max_position_embeddings": 2**exponent,
        }  # fmt: skip
        if factor >= 1 and np.allclose(factors, llama3_factors(scaling, theta, width), rtol=1e-4, atol=0):
            return scaling
    return None


def yarn_strength(factor: float) -> float:
    """What llama.cpp multiplies turned queries and keys by with yarn, as the paper does."""
    return 1 + 0.1 * math.log(factor) if factor > 1 else 1.0


def longrope_strength(context: float, original: float) -> float:
    """The same with longrope, for a context that is longer than the original one (Phi-3's release)."""
    return math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original > 1 else 1.0
