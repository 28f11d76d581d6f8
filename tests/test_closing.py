"""Invariant: what ends a pipeline reaches its report, whatever the prompts and the models."""

import json
import logging

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.heads import LanguageModel
from lit_llm.backbone.huggingface import save_model
from lit_llm.closing import Models, write_answers
from lit_llm.evaluation.sets import write_heldout
from lit_llm.records import Heldout, Message, Prompt
from lit_llm.text.tokenizer import train_bpe

CONFIG = """
stage: {_target_: lit_llm.stages.ppo.PPO, _partial_: true}
backbone: {}
tokenizer: {}
data: {}
optimizer: {}
schedule: {}
trainer: {accelerator: cpu}
"""
SETTINGS = {"prompts": ["Hello?"], "heldout_prompts": 2, "max_new_tokens": 3, "temperature": 0.0, "seed": 0}


@pytest.fixture
def runs(tmp_path):
    tokenizer = train_bpe(["Hello? The cat sat on the mat."] * 5, 300, show_progress=False)
    torch.manual_seed(0)
    found = {}
    for name, context in (("instruction_tuning", 96), ("ppo", 64)):
        model = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=context))
        save_model(tmp_path / name / "model", model, tokenizer)
        (tmp_path / name / "config.yaml").write_text(CONFIG)
        found[name] = tmp_path / name
    texts = ("xyz " * 20, "The cat?")
    items = tuple(Prompt((Message("user", text),)) for text in texts)
    write_heldout(tmp_path / "ppo" / "heldout", Heldout("prompts", "prompts", items))
    return found


def written(tmp_path):
    return json.loads((tmp_path / "answers.json").read_text())


def test_a_prompt_longer_than_a_context_is_left_out(runs, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "lit_llm")
    write_answers(tmp_path, Models(runs), SETTINGS)
    assert [one[0]["content"] for one in written(tmp_path)["prompts"]] == ["Hello?", "The cat?"]
    assert {stage: len(given) for stage, given in written(tmp_path)["answers"].items()} == dict.fromkeys(runs, 2)
    assert "1 of 3 prompts fill a model's context" in caplog.text


def test_a_model_that_cannot_answer_is_named_and_the_others_answer(runs, tmp_path, caplog):
    models = Models(runs)
    with torch.no_grad():
        models.model("ppo").backbone.embed_tokens.weight.fill_(float("nan"))
    write_answers(tmp_path, models, SETTINGS)
    assert list(written(tmp_path)["answers"]) == ["instruction_tuning"]
    assert "no answers of ppo" in caplog.text
