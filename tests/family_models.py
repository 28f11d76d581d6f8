"""Random small models of every family in transformers, which is what the families here are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

VOCAB, LENGTH, CONTEXT = 61, 24, 64
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
NO_GROUPS = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": CONTEXT}
GPT2 |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


class Model(NamedTuple):
    config: str  # class of the configuration, without its last word
    language: str
    score: str | None
    settings: dict[str, Any]


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, **more}


LONG = {
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
    "partial_rotary_factor": 0.5,
}
EXPERTS = {"head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 7}
TYPES = ["sliding_attention", "full_attention"] * 2


def _model(
    stem: str, settings: dict[str, Any], base: dict[str, Any] = BASE, config: str = "", score: str = ""
) -> Model:
    head = score or stem
    return Model(config or stem, f"{stem}ForCausalLM", f"{head}ForSequenceClassification", base | settings)


MODELS: dict[str, Model] = {
    "qwen3": _model("Qwen3", {"head_dim": 16}),
    "qwen2": _model("Qwen2", {}),
    "llama": _model("Llama", {}),
    "mistral": _model("Mistral", {"sliding_window": 6}),
    "gemma2": _model("Gemma2", GEMMA | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5}),
    "gemma3": _model("Gemma3", GEMMA | {"layer_types": TYPES}, config="Gemma3Text", score="Gemma3Text"),
    "phi3": _model("Phi3", {}),
    "olmo2": _model("Olmo2", {}),
    "olmo3": _model("Olmo3", {"sliding_window": 6}),
    "smollm3": _model("SmolLM3", {}),
    "granite": _model(
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 3.0,
        },
    )._replace(score=None),
    "gpt_neox": _model("GPTNeoX", {}, NO_GROUPS),
    "gpt2": _model("GPT2", {}, GPT2)._replace(language="GPT2LMHeadModel"),
    "qwen3_moe": _model("Qwen3Moe", EXPERTS | {"norm_topk_prob": True}),
}
"""One of each family."""

VARIANTS: dict[str, Model] = {
    "qwen3 windowed by layers": _model("Qwen3", {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5,
                                                 "max_window_layers": 2}),
    "gemma2 without caps": _model("Gemma2", GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None,
                                                     "attention_bias": True, "tie_word_embeddings": False}),
    "gemma3 scaled": _model("Gemma3", GEMMA | {"rope_parameters": {
        "full_attention": _rope("linear", factor=8.0), "sliding_attention": _rope("default")},
        "layer_types": TYPES, "final_logit_softcapping": 3.0}, config="Gemma3Text"),
    "gemma3 all windowed": _model("Gemma3", GEMMA, config="Gemma3Text"),
    "phi3 partial and windowed": _model("Phi3", {"sliding_window": 5, "tie_word_embeddings": True,
                                                 "rope_parameters": _rope("default", partial_rotary_factor=0.5)}),
    "olmo2 biased": _model("Olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "olmo3 yarn": _model("Olmo3", {"sliding_window": 6, "rope_parameters": {
        "full_attention": _rope("yarn", factor=4.0, original_max_position_embeddings=16),
        "sliding_attention": _rope("default")}}),
    "smollm3 windowed and biased": _model("SmolLM3", {"use_sliding_window": True, "sliding_window": 5,
                                                      "no_rope_layers": [1, 0, 1, 0], "attention_bias": True,
                                                      "mlp_bias": True}),
    "granite biased": _model("Granite", {"mlp_bias": True, "attention_bias": True, "attention_multiplier": 0.3}),
    "gpt_neox in sequence": _model("GPTNeoX", {
        "use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_new",
        "rope_parameters": _rope("default", partial_rotary_factor=0.5)}, NO_GROUPS),
    "gpt2 odd": _model("GPT2", {"n_inner": 40, "activation_function": "relu", "scale_attn_weights": False,
                                "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}, GPT2
                       )._replace(language="GPT2LMHeadModel"),
    "qwen3_moe mixed": _model("Qwen3Moe", EXPERTS | {"decoder_sparse_step": 2, "mlp_only_layers": [3],
                                                     "use_sliding_window": True, "sliding_window": 6}),
    "dynamic": _model("Llama", {"rope_parameters": _rope("dynamic", factor=2.0), "max_position_embeddings": 16}),
    "yarn": _model("Qwen2", {"rope_parameters": _rope("yarn", factor=4.0, original_max_position_embeddings=16)}),
    "yarn with all": _model("Llama", {"rope_parameters": _rope(
        "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=2.0, mscale=0.7,
        mscale_all_dim=1.3, truncate=False)}),
    "longrope": _model("Phi3", {"rope_parameters": _rope("longrope", **LONG), "original_max_position_embeddings": 16}),
    "longrope of llama": _model("Llama", {"rope_parameters": _rope(
        "longrope", factor=4.0, attention_factor=1.3, short_factor=[1.0, 1.1, 1.2, 1.3],
        long_factor=[1.0, 2.0, 3.0, 4.0], original_max_position_embeddings=16)}),
    "llama3": _model("Llama", {"rope_parameters": _rope("llama3", factor=8.0, low_freq_factor=1.0,
                                                        high_freq_factor=4.0, original_max_position_embeddings=16)}),
    "linear": _model("Mistral", {"rope_parameters": _rope("linear", factor=4.0), "sliding_window": None}),
    "dynamic partial": _model("GPTNeoX", {"rope_parameters": _rope("dynamic", factor=2.0, partial_rotary_factor=0.5),
                                          "max_position_embeddings": 16}, NO_GROUPS),
}  # fmt: skip
"""Other settings of families, and every kind of rotary positions beyond its original context."""


def saved(model: Model, folder: Path, score: bool = False) -> Any:
    """Writes one with large random weights, so that a wrong mask, angle or scale shows well above rounding."""
    import transformers

    settings = model.settings | {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
    config = getattr(transformers, f"{model.config}Config")(**settings | ({"num_labels": 1} if score else {}))
    # Soft-capped scores need the written-out attention.
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    theirs = getattr(transformers, model.score if score else model.language)(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            norm = "norm" in name or "ln_" in name
            parameter.normal_(1.0 if norm and name.endswith("weight") else 0.0, 0.2)
    theirs.save_pretrained(folder)
    return theirs


def rows(*lengths: int) -> list[Tensor]:
    """A row (1, T) of each length, the same at every call."""
    return [torch.randint(1, VOCAB, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
