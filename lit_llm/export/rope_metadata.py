"""Stretched positions as llama.cpp has them: entries of the head, and tensors of divisors."""

from __future__ import annotations

from typing import Any

import numpy as np

from lit_llm.backbone.config import BackboneConfig
from lit_llm.model_sources.gguf_architectures import GGUFFamily
from lit_llm.model_sources.gguf_forms import Array
from lit_llm.model_sources.gguf_rope import BASE, DIMENSIONS, DIVISORS, LONG, SCALING, SHORT
from lit_llm.model_sources.rope_factors import llama3_factors, yarn_strength


def rope_metadata(config: BackboneConfig, row: GGUFFamily) -> dict[str, Any]:
    """Entries below the architecture's name."""
    if row.rope_kinds is None:
        return {}
    found = {DIMENSIONS: config.rotary_dim, BASE: float(config.rope_theta)}
    return found | {SCALING + key: value for key, value in _scaling(config).items()}


def _scaling(config: BackboneConfig) -> dict[str, Any]:
    """What yarn multiplies queries and keys by is llama.cpp's own strength, so that ``attn_factor`` is by how much the
    model's is more."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind in ("llama3", "dynamic"):
        return {}
    if scaling.kind == "linear":
        return {"type": "linear", "factor": float(scaling.factor)}
    original = {"original_context_length": scaling.original_max_positions}
    if scaling.kind == "longrope":
        return {"type": "longrope", **original, "attn_factor": float(scaling.magnitude)}
    more = scaling.magnitude / yarn_strength(scaling.factor)
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
    return {DIVISORS: np.array(llama3_factors(settings, config.rope_theta, config.head_dim), np.float32)}
