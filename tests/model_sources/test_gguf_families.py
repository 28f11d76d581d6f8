"""Files of every family with the head that llama.cpp's own converter writes: held to the model that they are of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Engine

from lit_llm.backbone.config import RopeScaling
from lit_llm.backbone.huggingface import load_language_model
from lit_llm.errors import UserError
from lit_llm.model_sources import folders
from lit_llm.model_sources.gguf_header import GGUFHead
from lit_llm.model_sources.gguf_tokenizer import tokenizer_files
from lit_llm.text.tokenizer import load_tokenizer
from tests.export.families import model_of
from tests.export.test_architectures import logits, written
from tests.small_gguf import with_head

SHAPE = {
    "context_length": 96, "embedding_length": 64, "feed_forward_length": 96, "block_count": 4,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip
HEADS = {"attention.key_length": 32, "attention.value_length": 32}
LAYER_NORM = {key: value for key, value in SHAPE.items() if not key.endswith(("head_count_kv", "rms_epsilon"))}
LAYER_NORM |= {"attention.layer_norm_epsilon": 1e-6}
SIXTEEN = {"attention.key_length": 16, "attention.value_length": 16}
LONG_ONLY = {"rope.scaling.original_context_length": 256, "rope.scaling.attn_factor": 1.1180340051651}
# What the converter (of 2025 and 2026) writes below the architecture's name, and how the model differs from families.py
PUBLISHED: dict[str, tuple[str, dict, dict]] = {
    "gemma2": ("gemma2", {**SHAPE, **HEADS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
                          "attention.sliding_window": 12}, {}),
    "gemma3": ("gemma3", {**SHAPE, **HEADS, "block_count": 7, "attention.sliding_window": 12, "rope.freq_base": 1e6,
                          "rope.freq_base_swa": 1e4, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, {}),
    "phi3": ("phi3", {**SHAPE, "rope.dimension_count": 16, "rope.freq_base": 1e4, "attention.sliding_window": 20,
                      "rope.scaling.original_context_length": 96}, {"sliding_window": 20}),
    "phi3 turned in part": ("phi3", {**SHAPE, "rope.dimension_count": 8, "rope.freq_base": 1e4,
                                     "attention.sliding_window": 0}, {"sliding_window": None}),
    "longrope": ("phi3", {**SHAPE, **LONG_ONLY, "context_length": 1024, "rope.dimension_count": 16,
                          "rope.freq_base": 1e4, "attention.sliding_window": 0}, {}),
    "olmo2": ("olmo2", {**SHAPE, "rope.freq_base": 1e4, "vocab_size": 323}, {}),
    "olmo3 stretched": ("olmo2", {
        **SHAPE, "rope.freq_base": 1e4, "attention.sliding_window": 12, "rope.scaling.type": "yarn",
        "attention.sliding_window_pattern": [True, True, True, False], "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 24, "rope.scaling.yarn_attn_factor": 1.1386294,
        "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 1.0,
    }, {"rope_scaling": RopeScaling("yarn", 4.0, original_max_positions=24, beta_fast=16.0)}),
    "smollm3": ("smollm3", {**SHAPE, "vocab_size": 323, "rope.dimension_count": 16, "rope.freq_base": 1e4}, {}),
    "granite": ("granite", {**SHAPE, "vocab_size": 323, "rope.dimension_count": 16, "rope.freq_base": 1e4,
                            "attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.4, "logit_scale": 3.0},
                {}),
    "gpt_neox": ("gptneox", {**LAYER_NORM, "rope.dimension_count": 4, "use_parallel_residual": True}, {}),
    "gpt2": ("gpt2", LAYER_NORM, {}),
    "qwen3_moe": ("qwen3moe", {**SHAPE, **SIXTEEN, "rope.freq_base": 1e4, "expert_count": 5, "expert_used_count": 2,
                               "expert_feed_forward_length": 32}, {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")


def exported(name: str, tmp_path: Path) -> Path:
    """A file of the model's weights; what it says of itself is left out."""
    changed = dict(PUBLISHED[name][2])
    if PUBLISHED[name][0] == "phi3":
        changed["sliding_window"] = None
    if changed.get("rope_scaling"):  # with turns that llama.cpp's converter writes and nothing here does
        changed["rope_scaling"] = dataclasses.replace(changed["rope_scaling"], beta_fast=32.0)
    return written(model_of(name, **changed), tmp_path)[1]


def published(name: str, tmp_path: Path, **changed) -> Path:
    architecture, entries, _ = PUBLISHED[name]
    return with_head(exported(name, tmp_path), tmp_path / "published.gguf", architecture, {**entries, **changed})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_head_is_read_as_the_model(name, tmp_path):
    model = model_of(name, **PUBLISHED[name][2])
    back = load_language_model(published(name, tmp_path)).eval()
    same = {"initializer_range": 0.02, "router_aux_coef": back.config.router_aux_coef}
    same |= {"rope_theta": back.config.rope_theta} if model.config.learned_positions else {}
    assert back.config == dataclasses.replace(model.config, **same)
    torch.testing.assert_close(logits(back), logits(model), atol=1e-5, rtol=0)
    assert logits(model).std() > 0.1, "a difference would show"


PATTERNS = [
    ([1, 0, 0, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0, 1]), (3, [1, 1, 0, 1, 1, 0, 1]), (None, [1, 1, 1, 1, 1, 0, 1]),
    (0, [1] * 7),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "windowed"), PATTERNS)
def test_which_layers_have_the_window_is_the_file_s_word(pattern, windowed, tmp_path):
    file = published("gemma3", tmp_path, **{"attention.sliding_window_pattern": pattern})
    config = load_language_model(file).config
    assert [config.window_of(layer) == 12 for layer in range(7)] == [bool(one) for one in windowed]


def test_a_file_without_a_window_has_none(tmp_path):
    file = published("gemma3", tmp_path, **{"attention.sliding_window": None})
    assert load_language_model(file).config.sliding_window is None


REFUSED = {
    "a pattern": ("gemma3", {"attention.sliding_window_pattern": [True, False]}, "for each of 7 layers"),
    "no positions": ("granite", {"rope.scaling.finetuned": False}, "rope.scaling.finetuned=False is not supported"),
    "no scale of logits": ("granite", {"logit_scale": None}, "granite.logit_scale is missing"),
    "another router": ("qwen3_moe", {"expert_weights_norm": False}, "expert_weights_norm=False is not supported"),
    "experts": ("qwen3_moe", {"expert_count": 6}, "expert_count=6, but blk.0.ffn_gate_exps.weight does not hold as"),
    "experts' width": ("qwen3_moe", {"expert_feed_forward_length": 48}, r"shape \[5, 32, 64\], its metadata ask for"),
    "stretched": ("gemma2", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "type='linear' is not supp"),
    "two strengths": ("olmo3 stretched", {"rope.scaling.attn_factor": 1.2}, "beside yarn_attn_factor"),
    "extrapolation": ("olmo3 stretched", {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor=0.5 is not supported"),
    "no divisors": ("phi3", {"rope.scaling.attn_factor": 1.2}, "attn_factor=1.2 is not supported"),
    "no context": ("longrope", {"rope.scaling.original_context_length": None}, "original_context_length is missing"),
    "a part": ("phi3", {"rope.dimension_count": 7}, "rope.dimension_count=7 should be even, and from 2 to the heads'"),
    "positions": ("gpt2", {"context_length": 64}, r"position_embd.weight has the shape \[96, 64\]"),
    "no residual": ("gpt_neox", {"use_parallel_residual": None}, "use_parallel_residual is missing"),
    "heads": ("olmo2", {"attention.head_count_kv": 3}, "head_count=4 is no multiple of head_count_kv=3"),
    "fewer keys": ("gpt_neox", {"attention.head_count_kv": 2}, "head_count_kv=2 is unlike head_count=4"),
    "a share": ("gpt2", {"attention.key_length": 32, "attention.value_length": 32}, "key_length=32 is no share"),
    "too many": ("gemma2", {"block_count": 2**31 - 1}, "the weights are missing beyond a few layers"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_computed_otherwise_is_refused_by_its_name(what, tmp_path):
    name, changed, message = REFUSED[what]
    file = published(name, tmp_path, **changed)
    with pytest.raises(UserError, match=message) as error:
        load_language_model(file)
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("models/*")), "nothing is left behind"


def test_a_file_of_several_types_is_read_expert_by_expert(tmp_path):
    """As llama.cpp's mixed quantisations are: random whole blocks of three types in place of a layer's experts."""
    changed = {"hidden_size": 256, "expert_size": 256, "num_layers": 1}
    _, file = written(model_of("qwen3_moe", **changed), tmp_path)
    reader, writer = gguf.GGUFReader(file), gguf.GGUFWriter(tmp_path / "mixed.gguf", "qwen3moe")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    draw, expected = np.random.default_rng(0), {}
    kinds = {
        "blk.0.ffn_gate_exps.weight": "Q4_K",
        "blk.0.ffn_up_exps.weight": "Q5_K",
        "blk.0.ffn_down_exps.weight": "Q6_K",
    }
    for tensor in reader.tensors:
        data, kind = np.array(tensor.data), tensor.tensor_type
        if tensor.name in kinds:
            kind = gguf.GGMLQuantizationType[kinds[tensor.name]]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            data = draw.integers(0, 60, (5, 256, 256 // block * size), dtype=np.uint8)  # small: no NaN in any scale
            expected[tensor.name] = gguf.quants.dequantize(data, kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    state = load_language_model(tmp_path / "mixed.gguf").state_dict()
    for name, whole in expected.items():
        part = name.split(".")[2].removeprefix("ffn_").removesuffix("_exps")
        for expert in range(5):
            [found] = [value for key, value in state.items() if key.endswith(f"experts.{expert}.{part}_proj.weight")]
            np.testing.assert_array_equal(found.numpy(), whole[expert])
    assert load_tokenizer(tmp_path / "mixed.gguf").vocab_size == 320


@pytest.mark.parametrize(("architecture", "behind"), [("phi3", []), ("llama", [6])])
def test_phi_3_s_control_tokens_take_the_new_lines_behind_them(architecture, behind):
    """As its tokenizer_config.json has them (``rstrip``), and as llama.cpp has them where the name says Phi-3."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<|endoftext|>",
        "<|user|>",
        "<|placeholder1|>",
        "<0x0A>",
        "▁",
        "H",
        "i",
        "Hi",
        "▁Hi",
    ]
    values = {
        "general.architecture": architecture, "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, 3, 3, 3, 6, 1, 1, 1, 1, 1], "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.scores": [*[0.0] * 10, -1.0, -2.0], "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    engine = Engine.from_str(json.dumps(tokenizer_files(GGUFHead(Path("phi.gguf"), values, {}))["tokenizer.json"]))
    assert engine.encode("<|user|>\nHi").ids == [4, *behind, 10]
    assert engine.encode("<|endoftext|>\nHi").ids == [3, 6, 10]
