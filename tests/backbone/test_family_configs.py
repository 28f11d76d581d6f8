"""Invariant: what a config.json asks for is read, in old spellings too, or refused by its key in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.huggingface import load_config, load_language_model, save_model
from lit_llm.errors import UserError
from tests.family_models import CONTEXT, MODELS, Model, rows, saved

transformers = pytest.importorskip("transformers")


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


REFUSED: list[tuple[str, str, Any]] = [
    ("llama", "attn_logit_softcapping", 50.0),
    ("llama", "final_logit_softcapping", 30.0),
    ("llama", "query_pre_attn_scalar", 8),
    ("llama", "attention_multiplier", 0.5),
    ("llama", "logits_scaling", 8.0),
    ("llama", "residual_multiplier", 0.2),
    ("llama", "embedding_multiplier", 12.0),
    ("llama", "no_rope_layers", [1, 1, 1, 0]),
    ("llama", "clip_qkv", 8.0),
    ("llama", "num_local_experts", 8),
    ("llama", "partial_rotary_factor", 0.5),
    ("llama", "hidden_act", "gelu"),
    ("llama", "mlp_bias", True),
    ("qwen3", "attention_chunk_size", 128),
    ("mistral", "attention_bias", True),
    ("gemma2", "hidden_activation", "tanh"),
    ("gemma2", "use_bidirectional_attention", True),
    ("gemma2", "layer_types", ["full_attention"]),
    ("gemma2", "query_pre_attn_scalar", -1),
    ("gemma3", "attn_logit_softcapping", 50.0),
    ("gemma3", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4}),
    ("phi3", "attention_bias", True),
    ("phi3", "lm_head_bias", True),
    ("phi3", "full_attn_mod", 2),
    ("phi3", "rope_parameters", {"rope_type": "dynamic", "factor": 2.0}),
    ("phi3", "rope_parameters", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
    ("phi3", "rope_parameters", {"rope_type": "longrope", "short_factor": "x", "long_factor": [2.0]}),
    ("olmo2", "clip_qkv", 1.0),
    ("olmo3", "layer_types", ["chunked_attention"] * 4),
    ("smollm3", "no_rope_layers", [1]),
    ("smollm3", "mlp_bias", "yes"),
    ("granite", "num_experts", 4),
    ("granite", "layer_types", ["sliding_attention"] * 4),
    ("phi3", "layer_types", ["sliding_attention"] * 4),
    ("gpt_neox", "hidden_act", "silu"),
    ("gpt_neox", "use_parallel_residual", 1),
    ("gpt2", "add_cross_attention", True),
    ("gpt2", "activation_function", "tanh"),
    ("gpt2", "scale_attn_weights", "no"),
    ("qwen3_moe", "num_experts_per_tok", 9),
    ("qwen3_moe", "num_experts_per_tok", 0),
    ("qwen3_moe", "decoder_sparse_step", 0),
    ("qwen3_moe", "n_shared_experts", 1),
    ("qwen2", "rope_parameters", {"rope_type": "yarn", "factor": 2.0, "beta": 3}),
    ("qwen2", "rope_parameters", {"rope_type": "mrope"}),
    ("qwen3", "model_type", "llama"),
    ("gpt_neox", "head_dim", 16),
    ("gpt2", "num_hidden_layers", 2),
    ("gpt2", "max_position_embeddings", 32),
]


@pytest.fixture(scope="module")
def config_files(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("configs")
    for name in {name for name, *_ in REFUSED}:
        model: Model = MODELS[name]
        config = getattr(transformers, f"{model.config}Config")(**model.settings, architectures=[model.language])
        config.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_what_a_family_has_not_is_refused_by_its_key(
    config_files: Path, tmp_path: Path, name: str, key: str, value: Any
) -> None:
    text = (config_files / name / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    load_config(tmp_path)
    change(tmp_path, **{key: value})
    with pytest.raises(UserError) as caught:
        load_config(tmp_path)
    named = {"num_experts_per_tok": "experts_per_token", "decoder_sparse_step": "decoder_sparse_step"}.get(key, key)
    message = str(caught.value)
    longrope = isinstance(value, dict) and value.get("rope_type") == "longrope"
    assert ("short_factor" if longrope else named) in message and str(tmp_path) in message and "\n" not in message


OLD: dict[str, dict[str, Any]] = {
    "gemma3": {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
               "sliding_window_pattern": 2, "layer_types": None},
    "gpt_neox": {"rotary_emb_base": 5000, "rotary_pct": 0.5, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 16,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}},
    "llama": {"rope_theta": 5000.0, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                      "original_max_position_embeddings": 16}},
    "smollm3": {"rope_theta": 5000.0, "no_rope_layers": None, "no_rope_layer_interval": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_older_spellings_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    saved(MODELS[name], tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw = {key: value for key, value in (raw | OLD[name]).items() if key != "rope_parameters" and value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ours, (tokens,) = load_language_model(tmp_path), rows(CONTEXT + 8 if name == "gpt_neox" else 40)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4, rtol=0)
        save_model(tmp_path / "ours", ours)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
        assert torch.equal(again(tokens).logits, theirs(tokens).logits)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
TWO_MEANINGS: list[tuple[str, str, Any]] = [
    ("llama", "rope_scaling", YARN),
    ("llama", "rope_theta", 5e5),
    ("qwen3", "rope_scaling", {"rope_type": "default", "rope_theta": 7.0}),
    ("gpt_neox", "rotary_pct", 0.75),
    ("gpt_neox", "rope_scaling", {"type": "default", "partial_rotary_factor": 0.75}),
    ("gemma3", "rope_local_base_freq", 5.0),
    ("gemma3", "rope_scaling", {"rope_type": "linear", "factor": 3.0}),
]


@pytest.mark.parametrize(("name", "key", "value"), TWO_MEANINGS)
def test_a_file_whose_two_spellings_say_different_things_is_refused(
    name: str, key: str, value: Any, tmp_path: Path
) -> None:
    """Else one of them would be ignored: transformers takes ``rope_scaling``, llama.cpp's converter the other."""
    saved(MODELS[name], tmp_path)
    save_model(tmp_path / "ours", load_language_model(tmp_path))  # with both, which agree
    load_config(tmp_path / "ours")
    change(tmp_path / "ours", **{key: value})
    with pytest.raises(UserError, match=f"config.json: {key}=.* rope_parameters says something else"):
        load_config(tmp_path / "ours")


@pytest.mark.parametrize("inside", [{}, {"original_max_position_embeddings": 4096}])
def test_phi_s_original_context_is_transformers_where_it_is_left_out(inside: dict[str, int], tmp_path: Path) -> None:
    saved(MODELS["phi3"], tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    factors = {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0], **inside}
    raw |= {"max_position_embeddings": 4 * 4096, "partial_rotary_factor": 0.5, "rope_scaling": factors}
    for key in ("rope_parameters", "original_max_position_embeddings"):
        raw.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ours, (tokens,) = load_language_model(tmp_path), rows(40)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4, rtol=0)
    factors["original_max_position_embeddings"] = 8192
    change(tmp_path, rope_scaling=factors)
    with pytest.raises(UserError, match=r"original_max_position_embeddings=8192 .* 4096, where it is left out"):
        load_config(tmp_path)


def test_two_names_of_one_setting_say_the_same_or_are_refused(tmp_path: Path) -> None:
    saved(MODELS["qwen3_moe"], tmp_path)
    load_config(tmp_path)
    change(tmp_path, num_experts=5, num_local_experts=5)
    load_config(tmp_path)
    change(tmp_path, num_local_experts=3)
    with pytest.raises(UserError, match="num_local_experts=3 is not supported: num_experts=5 means the same"):
        load_config(tmp_path)


def test_no_number_of_key_heads_means_as_many_as_heads(tmp_path: Path) -> None:
    """Where the key is left out Mistral's readers take 8."""
    model = MODELS["mistral"]
    model = model._replace(settings=model.settings | {"num_key_value_heads": 4})
    theirs, (tokens,) = saved(model, tmp_path), rows(20)
    change(tmp_path, num_key_value_heads=None)
    ours = load_language_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4, rtol=0)
