"""Invariant: a folder's types of weights come out as they went in, and a head that is in the file is not lost."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_llm.backbone.huggingface import as_stored, load_language_model, load_model, load_score_model, save_model
from lit_llm.backbone.lora import apply_lora, merge_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, grow_vocabulary
from lit_llm.errors import UserError

transformers = pytest.importorskip("transformers")
NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"


def types(folder: Path) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in load_file(folder / "model.safetensors").items()}


def told(folder: Path) -> set[str]:
    settings = json.loads((folder / "config.json").read_text())
    return {settings["dtype"], settings["torch_dtype"]}


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_folder_keeps_its_type_through_training_in_float32(theirs_saved: Any, tmp_path: Path, dtype: Any) -> None:
    folder, theirs = theirs_saved("Llama")
    theirs.to(dtype).save_pretrained(folder)
    ours = load_language_model(folder)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    save_model(tmp_path / "untouched", ours)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "untouched" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)  # bit by bit
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    save_model(tmp_path / "ours", ours)
    assert set(types(tmp_path / "ours").values()) == {dtype}
    assert told(tmp_path / "ours") == {str(dtype).removeprefix("torch.")}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.dtype == dtype
    read = load_language_model(tmp_path / "ours")  # what was measured after saving is what the folder holds
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), ours.parameters(), strict=True))


def test_merged_adapters_reward_models_and_grown_vocabularies_keep_it(theirs_saved: Any, tmp_path: Path) -> None:
    folder, theirs = theirs_saved("Qwen3", head_dim=8)
    theirs.bfloat16().save_pretrained(folder)
    model = load_language_model(folder)
    grow_vocabulary(model, 70)
    merged = merge_lora(copy.deepcopy(apply_lora(copy.deepcopy(model), rank=2)))
    for name, made in (("merged", merged), ("reward", ScoreModel.from_language_model(model))):
        save_model(tmp_path / name, made)
        assert set(types(tmp_path / name).values()) == {torch.bfloat16}, name
        assert told(tmp_path / name) == {"bfloat16"}
    assert "score.weight" in types(tmp_path / "reward")
    save_model(tmp_path / "again", load_score_model(tmp_path / "reward"))
    assert types(tmp_path / "again") == types(tmp_path / "reward")


def test_each_tensor_keeps_its_own_type(model: LanguageModel, tmp_path: Path) -> None:
    save_model(tmp_path / "a", model, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    save_file({n: t.float() if "norm" in n else t for n, t in tensors.items()}, tmp_path / "a" / "model.safetensors")
    wanted = types(tmp_path / "a")
    assert set(wanted.values()) == {torch.float32, torch.bfloat16}
    save_model(tmp_path / "b", load_language_model(tmp_path / "a"))
    assert types(tmp_path / "b") == wanted
    assert told(tmp_path / "b") == {"bfloat16"}
    change(tmp_path / "a", dtype="odd", torch_dtype=None)  # then the type of most weights
    save_model(tmp_path / "c", load_language_model(tmp_path / "a"))
    assert told(tmp_path / "c") == {"bfloat16"}


def test_a_weight_beyond_float16_is_not_lost(model: LanguageModel, tmp_path: Path, caplog: Any) -> None:
    save_model(tmp_path, model, dtype=torch.float16)
    again = load_language_model(tmp_path)
    with torch.no_grad():
        again.backbone.norm.weight[0] = 7e4
    with caplog.at_level(logging.WARNING):
        as_stored(again)
    assert "beyond the range" in caplog.text
    save_model(tmp_path, again)
    assert load_file(tmp_path / "model.safetensors")[NORM][0] == 7e4
    assert told(tmp_path) == {"float32"}


def test_a_head_unlike_the_embedding_it_is_tied_to_is_kept(theirs_saved: Any, tmp_path: Path, caplog: Any) -> None:
    """As transformers 5 reads such a folder, and further on."""
    folder, theirs = theirs_saved("Llama")
    change(folder, tie_word_embeddings=True)
    tokens = torch.arange(1, 31)[None]
    both = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = load_language_model(folder)
    assert "both are kept" in caplog.text
    save_model(tmp_path / "ours", ours)
    with torch.no_grad():
        wanted = theirs(tokens).logits
        for found in (both(tokens).logits, ours.logits(ours(tokens))):
            assert torch.allclose(found, wanted, atol=1e-4)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
        assert torch.allclose(again(tokens).logits, wanted, atol=1e-4)


def test_a_tied_head_in_the_file_is_one_with_the_embedding(model: LanguageModel, tmp_path: Path) -> None:
    save_model(tmp_path, model)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for written in ({HEAD: tensors[EMBEDDING].clone()}, {HEAD: tensors[EMBEDDING].clone(), EMBEDDING: None}):
        save_file({n: t for n, t in (tensors | written).items() if t is not None}, path)
        read = load_language_model(tmp_path)
        assert read.output_weight is read.backbone.embed_tokens.weight
        assert torch.equal(read.output_weight, model.output_weight)


def test_an_untied_model_without_its_head_is_refused(theirs_saved: Any) -> None:
    folder, _ = theirs_saved("Llama")
    path = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if n != HEAD}, path)
    with pytest.raises(UserError, match=r"missing lm_head.weight.*tie_word_embeddings") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
