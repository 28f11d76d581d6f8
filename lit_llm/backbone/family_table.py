"""The table of families: what each one's blocks are built of, and how its config.json and weights say so.

A row holds what is the family's (``fixed``), what a folder chooses (``settings``), and what its readers assume where a
key is left out. ``families.py`` maps a config.json by it, ``layouts.py`` the weights; nothing else asks for a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Family = Literal[
    "qwen3", "qwen2", "llama", "mistral", "gemma2", "gemma3", "phi3", "olmo2", "olmo3", "smollm3", "granite",
    "gpt_neox", "gpt2", "qwen3_moe",
]  # fmt: skip
Kind = Literal["number", "count", "flag", "number or none", "inverse square", "scaled"]


class Setting(NamedTuple):
    """A setting of ``BackboneConfig`` that a key of config.json says.

    ``kind``: "number or none" where null turns it off; "inverse square": x there is x^-1/2 here; "scaled": false there
    is a scale of 1 here, true the usual one.
    """

    name: str
    key: str
    kind: Kind
    default: Any  # of the key, where it is left out


@dataclass(frozen=True)
class FamilyRow:
    """Defaults are those of its readers (transformers' configuration classes) where a key is left out."""

    language: str  # architecture of the language model
    score: str | None  # architecture of the reward model; None: there is none
    model_type: str | None = None  # None: the family's name
    head_dim: int | None = None  # None: hidden_size / heads
    kv_heads: int | None = None  # None: as many as heads
    tied: bool = False
    norm_eps: float = 1e-6
    qk_norm: bool = False
    bias: bool | None = None  # attention bias fixed by the family; None: attention_bias says
    bias_default: bool = False
    output_bias: bool = True  # whether the output projection has one where q, k and v have
    # The sliding window
    windows: bool = True  # whether there can be one
    sliding_window: int | None = None
    window_switch: bool = False  # it counts only with use_sliding_window
    window_from: bool = False  # and from the layer max_window_layers on
    full_every: int | None = None  # every so many layers one is without; None: all have it
    layer_types: bool = False  # layer_types says which layers have it
    # Rotary positions
    rope_theta: float = 1e4
    rotary_share: float | None = None  # None: all of a head turns
    theta_key: str = "rope_theta"
    share_key: str = "partial_rotary_factor"
    rope_by_layer: bool = False  # layers with a window turn by settings of their own
    window_theta: float | None = None  # of those; None: as the others
    rope_kinds: tuple[str, ...] = ("default", "linear", "llama3", "dynamic", "yarn", "longrope")
    original_positions: int | None = None  # the context before it was stretched; None: max_position_embeddings
    # What blocks are built of
    fixed: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu", "swish": "silu"})
    activation_key: str = "hidden_act"
    activation_default: str = "silu"
    keys: Mapping[str, str | None] = field(default_factory=dict)  # other names of usual keys; None: it has no such key

    def key(self, usual: str) -> str | None:
        """The name of a key of Llama's in this family's config.json; None: it has none."""
        return self.keys.get(usual, usual)

    @property
    def chosen(self) -> frozenset[str]:
        """The settings that a folder may choose, beside those that all families have."""
        some = {setting.name for setting in self.settings}
        some |= {"activation"} if len(set(self.activations.values())) > 1 else set()
        some |= {"rotary_share"} if self.rotary_share is not None else set()
        some |= {"windowed_layers"} if self.layer_types else set()
        some |= {"window_rope_theta", "window_rope_scaling"} if self.rope_by_layer else set()
        some |= {"rotary_layers"} if "no_rope_layers" in self.keys else set()
        return frozenset(some | ({"expert_layers"} if "num_experts" in some else set()))


GELU = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu"}
GEMMA = {"norm": "rms_offset", "norm_placement": "around", "activation": "gelu_tanh", "embedding_scale": None}
PRE_ATTENTION = Setting("attention_scale", "query_pre_attn_scalar", "inverse square", 256)
MLP_BIAS = Setting("mlp_bias", "mlp_bias", "flag", False)

FAMILIES: Mapping[Family, FamilyRow] = {
    "qwen3": FamilyRow(
        "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", None, 128, 32,
        qk_norm=True, window_switch=True, window_from=True, layer_types=True,
    ),
    "qwen2": FamilyRow(
        "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", None, None, 32,
        window_switch=True, window_from=True, layer_types=True, bias=True, output_bias=False,
    ),
    "llama": FamilyRow("LlamaForCausalLM", "LlamaForSequenceClassification", windows=False),
    "mistral": FamilyRow(
        "MistralForCausalLM", "MistralForSequenceClassification", None, None, 8, sliding_window=4096, bias=False
    ),
    "gemma2": FamilyRow(
        "Gemma2ForCausalLM", "Gemma2ForSequenceClassification", None, 256, 4, tied=True,
        sliding_window=4096, full_every=2, layer_types=True,
        fixed=GEMMA,
        settings=(
            PRE_ATTENTION,
            Setting("attention_softcap", "attn_logit_softcapping", "number or none", 50.0),
            Setting("logit_softcap", "final_logit_softcapping", "number or none", 30.0),
        ),
        activations=GELU, activation_key="hidden_activation", activation_default="gelu_pytorch_tanh",
    ),
    "gemma3": FamilyRow(
        "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", "gemma3_text", 256, 4, tied=True, qk_norm=True,
        sliding_window=4096, full_every=6, layer_types=True,
        rope_theta=1e6, rope_by_layer=True, window_theta=1e4,
        fixed=GEMMA,
        settings=(PRE_ATTENTION, Setting("logit_softcap", "final_logit_softcapping", "number or none", None)),
        activations=GELU, activation_key="hidden_activation", activation_default="gelu_pytorch_tanh",
    ),
    "phi3": FamilyRow(
        "Phi3ForCausalLM", "Phi3ForSequenceClassification", norm_eps=1e-5, bias=False,
        rotary_share=1.0, rope_kinds=("default", "longrope"), original_positions=4096,
    ),
    "olmo2": FamilyRow(
        "Olmo2ForCausalLM", "Olmo2ForSequenceClassification", norm_eps=1e-5, qk_norm=True, windows=False,
        fixed={"norm_placement": "after", "qk_norm_whole": True},
    ),
    "olmo3": FamilyRow(
        "Olmo3ForCausalLM", "Olmo3ForSequenceClassification", norm_eps=1e-5, qk_norm=True,
        sliding_window=4096, full_every=4, layer_types=True, rope_theta=5e5, rope_by_layer=True,
        fixed={"norm_placement": "after", "qk_norm_whole": True},
    ),
    "smollm3": FamilyRow(
        "SmolLM3ForCausalLM", "SmolLM3ForSequenceClassification", None, None, 4, tied=True,
        window_switch=True, layer_types=True, rope_theta=2e6,
        settings=(MLP_BIAS,), keys={"no_rope_layers": "no_rope_layers"},
    ),
    "granite": FamilyRow(
        "GraniteForCausalLM", None, windows=False,
        settings=(
            MLP_BIAS,
            Setting("embedding_scale", "embedding_multiplier", "number", 1.0),
            Setting("attention_scale", "attention_multiplier", "number", 1.0),
            Setting("residual_scale", "residual_multiplier", "number", 1.0),
            Setting("logit_divisor", "logits_scaling", "number", 1.0),
        ),
    ),
    "gpt_neox": FamilyRow(
        "GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification", norm_eps=1e-5, windows=False, bias_default=True,
        rotary_share=0.25, theta_key="rotary_emb_base", share_key="rotary_pct",
        fixed={"norm": "layer", "gated_mlp": False, "mlp_bias": True, "activation": "gelu"},
        settings=(Setting("parallel_residual", "use_parallel_residual", "flag", True),),
        activations={"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh":
                     "gelu_tanh", "relu": "relu"},
        activation_default="gelu",
        keys={"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": "layer_norm_eps"},
    ),
    "gpt2": FamilyRow(
        "GPT2LMHeadModel", "GPT2ForSequenceClassification", tied=True, norm_eps=1e-5, windows=False, bias=True,
        rope_kinds=(),
        fixed={"norm": "layer", "gated_mlp": False, "mlp_bias": True, "activation": "gelu_tanh",
               "learned_positions": True},
        settings=(
            Setting("attention_scale", "scale_attn_weights", "scaled", True),
            Setting("attention_scale_by_layer", "scale_attn_by_inverse_layer_idx", "flag", False),
        ),
        activations={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
                     "gelu": "gelu", "relu": "relu"},
        activation_key="activation_function", activation_default="gelu_new",
        keys={"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": "layer_norm_epsilon",
              "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
              "max_position_embeddings": "n_positions", "intermediate_size": "n_inner", "attention_bias": None,
              "attention_dropout": None},
    ),
    "qwen3_moe": FamilyRow(
        "Qwen3MoeForCausalLM", "Qwen3MoeForSequenceClassification", None, None, 4, qk_norm=True,
        sliding_window=4096, window_switch=True,
        settings=(
            Setting("num_experts", "num_experts", "count", 128),
            Setting("experts_per_token", "num_experts_per_tok", "count", 8),
            Setting("expert_size", "moe_intermediate_size", "count", 768),
            Setting("normalize_experts", "norm_topk_prob", "flag", False),
            Setting("router_aux_coef", "router_aux_loss_coef", "number", 0.001),
        ),
    ),
}  # fmt: skip

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "attention_chunk_size": (None,),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None, 0),
    "attn_temperature_tuning": (False, None),
    "clip_qkv": (None,),
    "decoder_sparse_step": (1,),
    "embedding_multiplier": (1, None),
    "final_logit_softcapping": (None, 0),
    "full_attn_mod": (1, None),
    "interpolate_factor": (1, None),
    "is_encoder_decoder": (False, None),
    "lm_head_bias": (False,),
    "logit_scale": (1, None),
    "logits_scaling": (1, None),
    "mlp_bias": (False,),
    "mlp_only_layers": ([], None),
    "n_shared_experts": (0, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "parallel_attn": (False,),
    "qk_layernorm": (False,),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (1, None),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_bidirectional_attention": (False, None),
    "use_parallel_residual": (False, None),
    "use_qk_norm": (False,),
}
"""Keys of any family that change what a model computes, and the values with which they do not. Those that a row does
not read may have no other value: a model that asks for more than its family has is refused, not read as something else.
"""
