"""Invariant: a folder means the same function here and in transformers, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.config import RopeScaling, from_depth
from lit_llm.backbone.huggingface import load_config, load_language_model, load_model, load_score_model, save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.generation.sampling import generate

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FOLDERS = {
    "qwen3": ("Qwen3", {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3 without GQA": ("Qwen3", {"head_dim": 8, "num_key_value_heads": 4}),
    "qwen3 biased": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
    "qwen3 windowed": (
        "Qwen3",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
    ),
    "qwen2": ("Qwen2", {}),
    "qwen2 without GQA": ("Qwen2", {"num_key_value_heads": 4}),
    "qwen2 window off": ("Qwen2", {"sliding_window": 5, "use_sliding_window": False}),
    "llama": ("Llama", {}),
    "llama without GQA": ("Llama", {"num_key_value_heads": 4}),
    "llama biased": ("Llama", {"attention_bias": True}),
    "llama3 scaling": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 16}),
    "linear scaling": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "tinyllama": ("Llama", {"num_attention_heads": 8, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
    "smollm": (
        "Llama",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 36, "tie_word_embeddings": True},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral without GQA": ("Mistral", {"sliding_window": None, "num_key_value_heads": 4}),
    "mistral windowed": ("Mistral", {"sliding_window": 6}),
}


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 61, (2, 40), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
def test_reads_what_transformers_wrote(theirs_saved: Any, tokens: torch.Tensor, name: str, tied: bool) -> None:
    stem, settings = FOLDERS[name]
    folder, theirs = theirs_saved(stem, **({"tie_word_embeddings": tied} | settings))
    ours = load_language_model(folder)
    with torch.no_grad():
        assert torch.allclose(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4)
    assert ours.num_parameters() == theirs.num_parameters() == load_config(folder).num_parameters


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_reads_what_is_written_here(
    theirs_saved: Any, tokens: torch.Tensor, name: str, tmp_path: Path
) -> None:
    stem, settings = FOLDERS[name]
    folder, _ = theirs_saved(stem, **settings)
    ours = load_language_model(folder)
    save_model(tmp_path / "ours", ours, generation={"eos_token_id": [60, 59], "pad_token_id": 0})
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert load_config(tmp_path / "ours") == load_config(folder)
    with torch.no_grad():
        assert torch.allclose(ours.logits(ours(tokens)), again(tokens).logits, atol=1e-4)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("stem", ["Qwen3", "Qwen2", "Llama", "Mistral"])
def test_greedy_text_is_the_same(theirs_saved: Any, tokens: torch.Tensor, stem: str, kv_heads: int) -> None:
    folder, theirs = theirs_saved(stem, num_key_value_heads=kv_heads)
    ours, prompt = load_language_model(folder), tokens[:1, :5]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, **options)
    found = generate(ours, prompt.tolist(), max_new_tokens=12, end_ids=(), temperature=0)
    assert found.input_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("stem", ["Qwen3", "Qwen2", "Llama", "Mistral"])
def test_reward_models_in_both_directions(theirs_saved: Any, tokens: torch.Tensor, tmp_path: Path, stem: str) -> None:
    folder, theirs = theirs_saved(stem, "SequenceClassification", num_labels=1)
    ours, lengths = load_score_model(folder), torch.tensor([40, 23])
    tokens[1, 23:] = 0
    with torch.no_grad():
        assert torch.allclose(ours(tokens, lengths), theirs(tokens).logits[:, 0], atol=1e-4)
        save_model(tmp_path / "ours", ours, generation={"pad_token_id": 0})
        again, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "ours", output_loading_info=True
        )
        assert not any(info.values()), info
        assert torch.allclose(ours(tokens, lengths), again(tokens).logits[:, 0], atol=1e-4)


def test_reward_normalisation_travels_in_the_config(model: LanguageModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    score_model = ScoreModel.from_language_model(model)
    score_model.reward_mean.fill_(1.5)
    score_model.reward_std.fill_(0.25)
    save_model(tmp_path, score_model)
    again, lengths = load_model(tmp_path, "auto"), torch.tensor([40, 12])
    assert isinstance(again, ScoreModel)
    assert torch.equal(again(tokens, lengths), score_model(tokens, lengths))
    assert json.loads((tmp_path / "config.json").read_text())["reward_normalization"] == {"mean": 1.5, "std": 0.25}


def test_sharded_files_are_read(theirs_saved: Any, tokens: torch.Tensor) -> None:
    folder, theirs = theirs_saved("Qwen3", shards="20KB", head_dim=8)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    with torch.no_grad():
        ours = load_language_model(folder)
        assert torch.allclose(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4)


def test_older_rope_settings_are_read_and_written(theirs_saved: Any, tmp_path: Path) -> None:
    folder, _ = theirs_saved("Llama", rope_parameters=LLAMA3)
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    new = load_config(folder)
    old_style = dict(raw.pop("rope_parameters"))
    raw |= {"rope_theta": old_style.pop("rope_theta"), "rope_scaling": old_style}
    path.write_text(json.dumps(raw))
    assert load_config(folder) == new
    assert new.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
    save_model(tmp_path / "ours", load_language_model(folder))
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == old_style
    assert written["rope_parameters"] == LLAMA3


def test_weights_are_bitwise_after_a_round_trip(model: LanguageModel, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        save_model(tmp_path, model.to(dtype))
        again = load_language_model(tmp_path, dtype=dtype)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_tied_head_is_stored_once_and_trains_as_one(model: LanguageModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_model(tmp_path, model)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_language_model(tmp_path)
    assert again.output_weight is again.backbone.embed_tokens.weight
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())


class TokenizerDouble:
    vocab_size, bos_id, pad_id, end_ids = 61, None, 3, (5, 3)

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def test_token_ids_come_from_the_tokenizer(model: LanguageModel, tmp_path: Path) -> None:
    save_model(tmp_path, model, TokenizerDouble(), generation={"temperature": 0.7})
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"], settings["bos_token_id"]) == (5, 3, None)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [5, 3], "pad_token_id": 3, "temperature": 0.7}
    assert (tmp_path / "tokenizer.json").exists()


def test_frequencies_survive_a_cast() -> None:
    """A cast of the model to bfloat16 leaves the rotary frequencies in float32."""
    rotary = LanguageModel(from_depth(61, 1)).backbone.rotary
    before = rotary.frequencies.clone()
    assert torch.equal(rotary.to(torch.bfloat16).frequencies, before)
