"""A small random model of every family that GGUF has beside those that ``from_depth`` makes."""

from __future__ import annotations

import torch

from lit_llm.backbone.config import BackboneConfig, RopeScaling
from lit_llm.backbone.models import LanguageModel

BASE = {
    "vocab_size": 323, "hidden_size": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "max_positions": 96, "initializer_range": 0.1, "rope_theta": 10000.0,
}  # fmt: skip
GEMMA = {"norm": "rms_offset", "norm_placement": "around", "activation": "gelu_tanh", "embedding_scale": None}
GEMMA |= {"head_dim": 32, "sliding_window": 12, "attention_scale": 32**-0.5}
LONG = tuple(1 + n / 4 for n in range(8))
MORE: dict[str, dict] = {
    "gemma2": GEMMA | {"family": "gemma2", "windowed_layers": (True, False) * 2, "attention_softcap": 2.0,
                       "logit_softcap": 3.0},
    "gemma3": GEMMA | {"family": "gemma3", "num_layers": 7, "windowed_layers": (True,) * 5 + (False, True),
                       "rope_theta": 1e6, "window_rope_theta": 1e4, "rope_scaling": RopeScaling("linear", 8.0)},
    "phi3": {"family": "phi3", "tie_embeddings": False},
    "phi3 turned in part": {"family": "phi3", "rotary_share": 0.5, "sliding_window": 48},
    "longrope": {"family": "phi3", "max_positions": 1024, "rope_scaling": RopeScaling(
        "longrope", 4.0, original_max_positions=256, short_factor=LONG, long_factor=tuple(4 * n for n in LONG))},
    "olmo2": {"family": "olmo2", "norm_placement": "after", "qk_norm_whole": True, "tie_embeddings": False},
    "olmo3": {"family": "olmo3", "norm_placement": "after", "qk_norm_whole": True, "tie_embeddings": False,
              "sliding_window": 12, "windowed_layers": (True, True, True, False)},
    "olmo3 stretched": {"family": "olmo3", "norm_placement": "after", "qk_norm_whole": True, "sliding_window": 12,
                        "windowed_layers": (True, True, True, False), "window_rope_theta": 1e4, "rope_scaling":
                        RopeScaling("yarn", 4.0, original_max_positions=24), "tie_embeddings": False},
    "smollm3": {"family": "smollm3", "rotary_layers": (True, True, True, False)},
    "granite": {"family": "granite", "embedding_scale": 3.0, "attention_scale": 0.2, "residual_scale": 0.4,
                "logit_divisor": 3.0},
    "gpt_neox": {"family": "gpt_neox", "num_kv_heads": 4, "norm": "layer", "gated_mlp": False, "mlp_bias": True,
                 "activation": "gelu", "parallel_residual": True, "rotary_share": 0.25, "tie_embeddings": False},
    "gpt_neox in sequence": {"family": "gpt_neox", "num_kv_heads": 4, "norm": "layer", "gated_mlp": False,
                             "mlp_bias": True, "activation": "gelu_tanh", "rotary_share": 0.5,
                             "tie_embeddings": False},
    "gpt2": {"family": "gpt2", "num_kv_heads": 4, "norm": "layer", "gated_mlp": False, "mlp_bias": True,
             "activation": "gelu_tanh", "learned_positions": True},
    "qwen3_moe": {"family": "qwen3_moe", "num_experts": 5, "experts_per_token": 2, "expert_size": 32,
                  "normalize_experts": True},
    "yarn": {"family": "llama", "rope_scaling": RopeScaling("yarn", 4.0, original_max_positions=24)},
    "yarn of its own strength": {"family": "qwen2", "rope_scaling": RopeScaling(
        "yarn", 4.0, original_max_positions=24, attention_factor=1.3)},
}  # fmt: skip


def model_of(name: str, **changed) -> LanguageModel:
    """Norms and biases are random too: what is left out would show."""
    torch.manual_seed(0)
    model = LanguageModel(BackboneConfig(**{**BASE, **MORE[name], **changed}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1) if parameter.ndim == 1 else None
    return model.eval()
