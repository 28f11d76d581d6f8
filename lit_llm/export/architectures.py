"""The families that llama.cpp has: which of its tensors is made of which of a folder's, and what it reads beside them.

A model that a family allows but llama.cpp's architecture has not (another window, a bias, another scale) is refused:
the file would be read as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_llm.backbone.config import BackboneConfig
from lit_llm.model_sources.gguf_model import LAYER, TOP

Form = str  # how a tensor is laid out in the file, beside the folder: ``tensor_forms.FORMS``


@dataclass(frozen=True)
class Written:
    """How a family is written. ``layer``, ``top``: llama.cpp's names to the folder's."""

    architecture: str
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    layers: str = "model.layers."
    optional: tuple[str, ...] = ("attn_q_norm", "attn_k_norm")  # where the folder has them
    forms: Mapping[str, Form] = field(default_factory=dict)  # of tensors that are laid out otherwise
    norm_eps: str = "layer_norm_rms_epsilon"
    biases: bool = False  # of attention, where a folder may have them
    windows: bool = False  # whether llama.cpp has the sliding window; else the file's context is the window
    rope_kinds: tuple[str, ...] = ("linear", "yarn")
    more: Callable[[BackboneConfig], dict[str, Any]] = lambda _: {}
    wrong: Callable[[BackboneConfig], Iterator[str]] = lambda _: iter(())


ALL_KINDS = ("linear", "yarn", "llama3")  # others read no rope_freqs, and end over a file that has it
PAIRS = {"attn_q": "query pairs", "attn_k": "key pairs"}
OUTPUT_NORMS = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
GEMMA_NORMS = dict.fromkeys(
    ("attn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm"),
    "one more",
)
GEMMA_LAYER = {**LAYER, **OUTPUT_NORMS}
OLMO_LAYER = {name: theirs for name, theirs in GEMMA_LAYER.items() if name not in ("attn_norm", "ffn_norm")}
PHI_LAYER = {
    "attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NEOX_LAYER = {
    "attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}  # fmt: skip
GPT2_LAYER = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
MIXTURE_LAYER = {name: theirs for name, theirs in LAYER.items() if not theirs.startswith("mlp.")} | {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{}.gate_proj", "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}  # fmt: skip


def _gemma(config: BackboneConfig, every: int) -> Iterator[str]:
    """llama.cpp's: every so many layers one sees all, scores are divided by sqrt(head_dim) but in two sizes."""
    wanted = tuple((layer + 1) % every != 0 for layer in range(config.num_layers))
    found = tuple(config.window_of(layer) is not None for layer in range(config.num_layers))
    if found != wanted:
        yield f"sliding_window in layers other than all but every {every}th"
    if config.num_layers == {2: 46, 6: 62}[every]:  # the 27B, which llama.cpp tells by its layers
        width = config.hidden_size / config.num_heads
    else:
        width = float(config.head_dim)
    if config.attention_scale is not None and abs(config.attention_scale * width**0.5 - 1) > 1e-6:
        yield f"query_pre_attn_scalar={config.attention_scale**-2:g} where llama.cpp takes {width:g}"
    if config.activation != "gelu_tanh":
        yield f"the activation {config.activation}"


def _gemma2(config: BackboneConfig) -> Iterator[str]:
    yield from _gemma(config, 2)
    if config.attention_softcap is None or config.logit_softcap is None:
        yield "scores or logits without soft caps"
    if not config.tie_embeddings:
        yield "a head of its own"


def _gemma3(config: BackboneConfig) -> Iterator[str]:
    yield from _gemma(config, 6)
    if (config.window_rope_theta or config.rope_theta) != 10000:
        yield f"rope_local_base_freq={config.window_rope_theta or config.rope_theta:g} where llama.cpp takes 10000"
    scaling = config.window_rope_scaling if config.window_rope_theta is not None else config.rope_scaling
    if scaling is not None:
        yield "stretched positions in the layers with a window"


def _whole_heads(config: BackboneConfig) -> Iterator[str]:
    if config.num_heads * config.head_dim != config.hidden_size:
        yield f"head_dim={config.head_dim} of which hidden_size is no multiple of num_attention_heads"


def _smollm3(config: BackboneConfig) -> Iterator[str]:
    if any(config.rotates(layer) != ((layer + 1) % 4 != 0) for layer in range(config.num_layers)):
        yield "no_rope_layers other than every fourth"


def _gpt2(config: BackboneConfig) -> Iterator[str]:
    if config.attention_scale is not None or config.attention_scale_by_layer:
        yield "scores that are scaled otherwise than by 1/sqrt(head_dim)"
    if config.activation != "gelu_tanh":
        yield f"the activation {config.activation}"


def _neox(config: BackboneConfig) -> Iterator[str]:
    if config.activation not in ("gelu", "gelu_tanh"):
        yield f"the activation {config.activation}"
    if not config.attention_bias:
        yield "attention without biases"
    if config.tie_embeddings:
        yield "a head that is the embedding"


def _mixture(config: BackboneConfig) -> Iterator[str]:
    if not config.normalize_experts:
        yield "norm_topk_prob=false"
    if not all(config.has_experts(layer) for layer in range(config.num_layers)):
        yield "layers without experts"


def _caps(config: BackboneConfig) -> dict[str, Any]:
    caps = {"attn_logit_softcapping": config.attention_softcap, "final_logit_softcapping": config.logit_softcap}
    window = {"attention.sliding_window": config.sliding_window}
    return {key: number for key, number in {**caps, **window}.items() if number is not None}


def _multipliers(config: BackboneConfig) -> dict[str, Any]:
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    return {
        "attention.scale": float(scale), "embedding_scale": float(config.embedding_factor),
        "residual_scale": float(config.residual_scale), "logit_scale": float(config.logit_divisor),
    }  # fmt: skip


def _experts(config: BackboneConfig) -> dict[str, Any]:
    return {
        "expert_count": config.num_experts, "expert_used_count": config.experts_per_token,
        "expert_feed_forward_length": config.expert_size,
    }  # fmt: skip


FAMILIES: Mapping[str, Written] = {
    "llama": Written("llama", forms=PAIRS, biases=True, rope_kinds=ALL_KINDS),
    "mistral": Written("llama", forms=PAIRS, rope_kinds=ALL_KINDS),
    "qwen2": Written("qwen2", biases=True),
    "qwen3": Written("qwen3"),
    "qwen3_moe": Written(
        "qwen3moe", MIXTURE_LAYER, more=_experts, wrong=_mixture,
        forms=dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), "stacked"),
    ),
    "gemma2": Written("gemma2", GEMMA_LAYER, forms=GEMMA_NORMS, windows=True, rope_kinds=(), more=_caps, wrong=_gemma2),
    "gemma3": Written(
        "gemma3", GEMMA_LAYER, forms=GEMMA_NORMS, windows=True, rope_kinds=("linear",), more=_caps, wrong=_gemma3
    ),
    "phi3": Written("phi3", PHI_LAYER, rope_kinds=("longrope",), wrong=_whole_heads),
    "olmo2": Written("olmo2", OLMO_LAYER, optional=(), wrong=_whole_heads),
    "smollm3": Written("smollm3", forms=PAIRS, wrong=_smollm3),
    "granite": Written("granite", forms=PAIRS, more=_multipliers, rope_kinds=ALL_KINDS),
    "gpt_neox": Written(
        "gptneox", NEOX_LAYER, layers="gpt_neox.layers.", forms={"attn_qkv": "head by head"}, biases=True,
        top={"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
        norm_eps="layer_norm_epsilon", wrong=_neox,
        more=lambda config: {"use_parallel_residual": config.parallel_residual},
    ),
    "gpt2": Written(
        "gpt2", GPT2_LAYER, layers="transformer.h.", biases=True, norm_eps="layer_norm_epsilon", rope_kinds=(),
        top={"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
             "output": "lm_head"},
        forms=dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "transposed"), wrong=_gpt2,
    ),
}  # fmt: skip
"""By the family here."""


def unlike(config: BackboneConfig) -> list[str]:
    """What the model has, and llama.cpp's architecture of its family has not."""
    row = FAMILIES[config.family]
    found = list(row.wrong(config))
    if config.attention_bias and not row.biases:
        found.append("attention biases")
    if config.mlp_bias and config.norm != "layer":
        found.append("biases in its MLP")
    if not row.windows and config.sliding_window is not None and config.windowed_layers is not None:
        windowed = [config.window_of(layer) is not None for layer in range(config.num_layers)]
        if any(windowed) and not all(windowed):
            found.append("a sliding window in some of its layers")
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind not in row.rope_kinds:
        found.append(f"rope_type {scaling.kind}")
    elif scaling is not None and scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != (32.0, 1.0):
        found.append(f"yarn with beta_fast={scaling.beta_fast:g}, beta_slow={scaling.beta_slow:g} in place of 32 and 1")
    elif scaling is not None and scaling.kind == "yarn" and not scaling.truncate:
        found.append("yarn with truncate=false")
    return found
