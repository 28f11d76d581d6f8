"""What a family allows and llama.cpp's architecture of it has not: another window, a bias, another scale.

Such a model is refused: the file would be read as something else. Names and entries are in the table that GGUF files
are read by too (``model_sources/gguf_architectures.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lit_llm.backbone.config import BackboneConfig
from lit_llm.model_sources.gguf_architectures import FAMILIES, GGUFFamily


def _windows(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    wanted = [not row.sees_all(layer) for layer in range(config.num_layers)]
    if [config.window_of(layer) is not None for layer in range(config.num_layers)] != wanted:
        yield f"sliding_window in layers other than all but every {row.every}th"


def _gemma(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    yield from _windows(config, row)
    width = row.score_width(config.num_layers, config.hidden_size, config.num_heads, config.head_dim)
    if config.attention_scale is not None and abs(config.attention_scale * width**0.5 - 1) > 1e-6:
        yield f"query_pre_attn_scalar={config.attention_scale**-2:g} where llama.cpp takes {width:g}"
    if config.activation != "gelu_tanh":
        yield f"the activation {config.activation}"


def _gemma2(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    yield from _gemma(config, row)
    if config.attention_softcap is None or config.logit_softcap is None:
        yield "scores or logits without soft caps"
    if not config.tie_embeddings:
        yield "a head of its own"


def _gemma3(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    yield from _gemma(config, row)
    if (config.window_rope_theta or config.rope_theta) != row.window_theta:
        theta = config.window_rope_theta or config.rope_theta
        yield f"rope_local_base_freq={theta:g} where llama.cpp takes {row.window_theta:g}"
    yield from _stretched_windows(config)


def _stretched_windows(config: BackboneConfig) -> Iterator[str]:
    scaling = config.window_rope_scaling if config.window_rope_theta is not None else config.rope_scaling
    if scaling is not None:
        yield "stretched positions in the layers with a window"


def _whole_heads(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    del row
    if config.num_heads * config.head_dim != config.hidden_size:
        yield f"head_dim={config.head_dim} of which hidden_size is no multiple of num_attention_heads"


def _olmo3(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    yield from _whole_heads(config, row)
    yield from _windows(config, row)
    yield from _stretched_windows(config)
    if config.window_rope_theta not in (None, config.rope_theta):
        yield f"a base of {config.window_rope_theta:g} in the layers with a window"


def _smollm3(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    every = row.fixed["no_rope_layer_interval"]
    if any(config.rotates(layer) != ((layer + 1) % every != 0) for layer in range(config.num_layers)):
        yield "no_rope_layers other than every fourth"


def _gpt2(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    del row
    if config.attention_scale is not None or config.attention_scale_by_layer:
        yield "scores that are scaled otherwise than by 1/sqrt(head_dim)"
    if config.activation != "gelu_tanh":
        yield f"the activation {config.activation}"


def _neox(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    del row
    if config.activation not in ("gelu", "gelu_tanh"):
        yield f"the activation {config.activation}"
    if not config.attention_bias:
        yield "attention without biases"
    if config.tie_embeddings:
        yield "a head that is the embedding"


def _mixture(config: BackboneConfig, row: GGUFFamily) -> Iterator[str]:
    del row
    if not config.normalize_experts:
        yield "norm_topk_prob=false"
    if not all(config.has_experts(layer) for layer in range(config.num_layers)):
        yield "layers without experts"


_UNLIKE: Mapping[str, Callable[[BackboneConfig, GGUFFamily], Iterator[str]]] = {
    "gemma2": _gemma2, "gemma3": _gemma3, "phi3": _whole_heads, "olmo2": _whole_heads, "olmo3": _olmo3,
    "smollm3": _smollm3, "gpt2": _gpt2, "gpt_neox": _neox, "qwen3_moe": _mixture,
}  # fmt: skip


def unlike(config: BackboneConfig) -> list[str]:
    """What the model has, and llama.cpp's architecture of its family has not."""
    row = FAMILIES[config.family]
    found = list(_UNLIKE[config.family](config, row)) if config.family in _UNLIKE else []
    if config.attention_bias and not row.biased:
        found.append("attention biases")
    if config.mlp_bias and config.norm != "layer":
        found.append("biases in its MLP")
    if row.every is None and config.sliding_window is not None and config.windowed_layers is not None:
        windowed = [config.window_of(layer) is not None for layer in range(config.num_layers)]
        if any(windowed) and not all(windowed):
            found.append("a sliding window in some of its layers")
    scaling, kinds = config.rope_scaling, row.rope_kinds or ()
    if scaling is not None and scaling.kind not in kinds:
        found.append(f"rope_type {scaling.kind}")
    elif scaling is not None and scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != (32.0, 1.0):
        found.append(f"yarn with beta_fast={scaling.beta_fast:g}, beta_slow={scaling.beta_slow:g} in place of 32 and 1")
    elif scaling is not None and scaling.kind == "yarn" and not scaling.truncate:
        found.append("yarn with truncate=false")
    return found
