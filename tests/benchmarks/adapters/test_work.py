"""LoRA beside QLoRA: mistakes are one line, and the command that is measured does what the stage alone does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.adapters.work import CONTESTANTS, Settings, words_of, write_conversations
from benchmarks.command import command

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from tests.export.conftest import small_tokenizer


def saved(folder: Path, kind: type = LanguageModel) -> Path:
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    shape = from_depth(tokenizer.vocab_size, 1, hidden_size=64, num_heads=2, max_positions=128)
    save_model(folder, kind(shape), tokenizer)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing model="),
        (["model=no/such/folder"], "model=.*no such folder"),
        (["model={scores}"], "gives scores"),
        (["model={scores}", "rows=0"], "rows=0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    scores = saved(tmp_path / "scores", ScoreModel)
    with pytest.raises(UserError, match=said) as caught:
        command(["adapters", *(word.format(scores=scores) for word in words)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantization", CONTESTANTS.values())
def test_the_whole_command_trains_what_the_stage_alone_does(quantization: str | None, tmp_path: Path) -> None:
    schema.register()
    settings = Settings(saved(tmp_path / "model"), rank=4, rows=2, length=64, steps=5)
    write_conversations(settings, tmp_path / "conversations.jsonl")
    words = words_of(settings, settings.model, quantization, tmp_path)
    check("train", hydra_words("train", words))
    cfg = compose("train", words)
    assert (cfg.stage.lora_rank, cfg.stage.lora_quantization) == (4, quantization)
    assert (cfg.data.micro_batch_size, cfg.data.max_length, cfg.trainer.max_steps) == (2, 64, 6)
    assert cfg.init_from == str(settings.model) and not cfg.evaluation.before and cfg.trainer.precision == "32-true"


@pytest.mark.slow  # four processes that import torch
def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    folder, file = saved(tmp_path / "model"), tmp_path / "found.json"
    command(["adapters", f"model={folder}", "rank=4", "length=64", "steps=1", f"json={file}"])
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["LoRA", "QLoRA"] and "whole command" in said[0]
    found = json.loads(file.read_text())["results"]
    assert found["QLoRA"]["weights"] < found["LoRA"]["weights"]
    for one in found.values():
        assert one["bare"] < one["ready"] <= one["trained"] and one["command"] > one["bare"] and one["seconds"] > 0
