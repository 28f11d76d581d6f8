"""What a run hands to its parts."""

import json

import pytest
from torch._functorch import config as functorch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.runtime import compile_cache
from lit_llm.text.bpe import train_bpe
from lit_llm.training.build import load
from tests.chain_data import write_data


def fine_tuning(folder):
    """The words of a run on a model of its own."""
    write_data(folder / "data")
    tokenizer = train_bpe(["It returns the file."] * 4, vocab_size=270, show_progress=False)
    base = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=64))
    save_model(folder / "base", base, tokenizer)
    words = ["stage=fine_tuning", f"init_from={folder}/base", f"data.path={folder}/data/task_pairs"]
    return [*words, f"data.cache_dir={folder}/cache", "data.max_length=64", "callbacks=none"]


def test_an_adapter_names_the_folder_that_the_run_started_from(tmp_path):
    words = [*fine_tuning(tmp_path), "stage.lora_rank=2"]

    def named(*more):
        load(compose("train", [*words, *more]), tmp_path / "run").stage.save(tmp_path / "run/model")
        return json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"]

    assert named() == f"{tmp_path}/base"
    assert named("stage.base_model=some/base") == "some/base"


def test_what_the_compiler_may_forget_is_not_drawn_again(tmp_path, monkeypatch):
    """With dropout its gradients would be another mask's: refused. Without, the budget is in force."""
    monkeypatch.setattr(compile_cache, "_in_use", [])
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "compiled"))
    words = [*fine_tuning(tmp_path), "stage.lora_rank=2"]
    words += ["trainer.compile=true", "trainer.activation_memory_budget=0.5"]
    with functorch.patch(activation_memory_budget=1.0):
        with pytest.raises(UserError, match=r"activation_memory_budget=0.5: .*stage.lora_dropout=0"):
            load(compose("train", words), tmp_path / "run")
        assert functorch.activation_memory_budget == 1.0
        stage = load(compose("train", [*words, "stage.lora_dropout=0"]), tmp_path / "run").stage
        assert functorch.activation_memory_budget == 0.5 and stage.model.backbone.compiled
