"""Stretched positions as llama.cpp has them: entries of the head, and tensors of divisors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lit_llm.backbone.config import BackboneConfig, RopeScaling
from lit_llm.export.tensor_forms import Array
from lit_llm.model_sources.gguf_model import ROPE_FACTORS
from lit_llm.model_sources.rope_factors import llama3_factors

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def rope_metadata(scaling: RopeScaling | None) -> dict[str, Any]:
    """Entries below ``rope.scaling``. What yarn multiplies queries and keys by is 1 + 0.1 ln(factor) in llama.cpp, so
    that ``attn_factor`` is by how much the model's is more."""
    if scaling is None or scaling.kind in ("llama3", "dynamic"):
        return {}
    if scaling.kind == "linear":
        return {"type": "linear", "factor": float(scaling.factor)}
    original = {"original_context_length": scaling.original_max_positions}
    if scaling.kind == "longrope":
        return {"type": "longrope", **original, "attn_factor": float(scaling.magnitude)}
    more = scaling.magnitude / (1 + 0.1 * math.log(scaling.factor)) if scaling.factor > 1 else scaling.magnitude
    attention = {} if abs(more - 1) < 1e-9 else {"attn_factor": float(more)}
    return {"type": "yarn", "factor": float(scaling.factor), **original, **attention}


def rope_tensors(config: BackboneConfig) -> dict[str, Array]:
    """By what each turned pair's frequency is divided: Llama 3's, and longrope's two, of which llama.cpp takes the long
    ones where its context is longer than the original."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "longrope":
        both = {LONG: scaling.long_factor, SHORT: scaling.short_factor}
        return {name: np.array(numbers, np.float32) for name, numbers in both.items()}
    if scaling is None or scaling.kind != "llama3":
        return {}
    settings = {
        "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }  # fmt: skip
    return {ROPE_FACTORS: np.array(llama3_factors(settings, config.rope_theta, config.head_dim), np.float32)}
