"""Invariant: what ends a pipeline reaches its report, whatever the prompts and the models."""

import json
import logging

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.pipeline_steps import Step
from lit_llm.evaluation.sets import write_heldout
from lit_llm.pipeline.final_evaluation import Models, compared, write_answers
from lit_llm.pipeline.skipped_prompts import judged
from lit_llm.records import Heldout, Message, Prompt
from lit_llm.text.bpe import train_bpe

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


def test_other_items_of_the_same_name_are_another_set(runs, tmp_path):
    def sets(text):
        items = (Prompt((Message("user", text),)),)
        write_heldout(tmp_path / "grpo" / "heldout", Heldout("prompts", "prompts", items))
        return Models({**runs, "grpo": tmp_path / "grpo"}).sets

    assert list(sets("2 + 3?")["grpo"]) == ["prompts_grpo"] and list(sets("2 + 3?")["ppo"]) == ["prompts"]
    (tmp_path / "grpo/heldout/prompts.jsonl").write_bytes((tmp_path / "ppo/heldout/prompts.jsonl").read_bytes())
    assert list(Models({**runs, "grpo": tmp_path / "grpo"}).sets["grpo"]) == ["prompts"]


def test_a_model_of_ones_own_is_what_the_verdict_compares_with(runs, tmp_path):
    """from=ppo init_from=FOLDER: the step that FOLDER stands in for left no folder in the pipeline's."""
    own = runs["instruction_tuning"] / "model"
    models = Models({"ppo": runs["ppo"]}, {"ppo": runs["ppo"] / "model", "instruction_tuning": own})
    line = compared(tmp_path / "pipeline", models, {"ppo": "instruction_tuning"})[1]
    assert f"model={tmp_path}/pipeline/ppo/model against={own} prompts={tmp_path}/ppo/heldout/prompts.jsonl" in line
    assert models.model("instruction_tuning").config.max_positions == 96


def test_rewards_and_scorers_of_missing_steps_are_done_without():
    stage = {"reward": {"folder": "@reward_modeling"}, "gold": {"_target_": "rule"}}
    evaluation = {"scorers": {"rule": {"_target_": "rule"}, "flagged": {"folder": "@flag_classification"}}}
    step = Step("ppo", {"init_from": "@sft", "stage": stage, "evaluation": evaluation})
    left = judged(step, {"sft": None}).config
    assert left["stage"] == {"reward": None, "gold": {"_target_": "rule"}}
    assert list(left["evaluation"]["scorers"]) == ["rule"]
