"""Invariant: what ends a pipeline reaches its report, whatever the prompts and the models."""

import gc
import json
import logging
import shutil

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.loaded import LoadedModel, load_shared
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.config.pipeline_steps import Step
from lit_llm.evaluation.sets import write_heldout
from lit_llm.pipeline import final_evaluation
from lit_llm.pipeline.final_evaluation import Models, compared, evaluate_pipeline, write_answers
from lit_llm.pipeline.skipped_prompts import judged
from lit_llm.records import Comparison, Document, Heldout, Message, Prompt
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import load_tokenizer
from tests.folder_reads import count_reads

CONFIG = """
stage: {_target_: lit_llm.stages.ppo.PPO, _partial_: true}
backbone: {}
tokenizer: {}
data: {}
optimizer: {}
schedule: {}
trainer: {accelerator: cpu}
"""
RANKED = Comparison((Message("user", "Hello?"),), ("The cat", "mat"), (1, 2))
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
    write_answers(tmp_path, Models(runs), SETTINGS, list(runs))
    assert [one[0]["content"] for one in written(tmp_path)["prompts"]] == ["Hello?", "The cat?"]
    assert {stage: len(given) for stage, given in written(tmp_path)["answers"].items()} == dict.fromkeys(runs, 2)
    assert "1 of 3 prompts fill a model's context" in caplog.text


def test_a_model_that_cannot_answer_is_named_and_the_others_answer(runs, tmp_path, caplog):
    models = Models(runs)
    with torch.no_grad():
        models.loaded("ppo").model.backbone.embed_tokens.weight.fill_(float("nan"))
    write_answers(tmp_path, models, SETTINGS, list(runs))
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
    assert models.loaded("instruction_tuning").model.config.max_positions == 96


def test_the_model_that_a_chain_begins_from_stands_in_ledger_and_answers(runs, tmp_path):
    """It is no run's: its scores are those that the first stage took before it trained."""
    first, start = runs["instruction_tuning"], tmp_path / "bought"
    torch.manual_seed(1)
    save_model(start, LanguageModel(load_language_model(first / "model").config), load_tokenizer(first / "model"))
    (first / "config.yaml").write_text(CONFIG + f"init_from: {start}\n")
    texts = (Document("The cat sat on the mat."), Document("The mat. Hello?"))
    write_heldout(first / "heldout", Heldout("words", "documents", texts))
    config = {
        "ledger": True,
        "answers": SETTINGS,
        "report": False,
        "stages": {},
        "best_of_n": {"n": 0},
        "export": {"to": None},
    }
    parents = {"instruction_tuning": None, "ppo": "instruction_tuning"}
    evaluate_pipeline(config, tmp_path, runs, parents, {name: run / "model" for name, run in runs.items()})
    entries = json.loads((tmp_path / "ledger.json").read_text())["entries"]
    mine = {entry["stage"]: entry for entry in entries if (entry["set"], entry["metric"]) == ("words", "bits_per_byte")}
    assert list(mine) == ["starting_model", "instruction_tuning", "ppo"]
    assert mine["instruction_tuning"]["against"] == "starting_model"
    assert mine["instruction_tuning"]["before"]["mean"] == pytest.approx(mine["starting_model"]["after"]["mean"])
    assert mine["instruction_tuning"]["before"]["mean"] != mine["instruction_tuning"]["after"]["mean"]
    assert list(written(tmp_path)["answers"]) == ["starting_model", "instruction_tuning", "ppo"]


def test_a_chain_of_judges_alone_has_its_page_and_no_export(tmp_path, caplog):
    tokenizer = train_bpe(["Hello? The cat sat on the mat."] * 5, 300, show_progress=False)
    model = ScoreModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2))
    run = tmp_path / "reward_modeling"
    save_model(run / "model", model, tokenizer)
    (run / "config.yaml").write_text(CONFIG)
    (run / "metrics.json").write_text('{"stage": "reward_modeling", "heldout": {}, "steps": 1}')
    config = {"stages": {}, "ledger": True, "answers": SETTINGS, "report": True, "export": {"to": "gguf"}}
    config["best_of_n"] = {"n": 0}
    with caplog.at_level(logging.INFO, "lit_llm"):
        found = evaluate_pipeline(config, tmp_path, {run.name: run}, {run.name: None}, {run.name: run / "model"})
    assert found is None and (tmp_path / "report.html").is_file() and not (tmp_path / "export.json").exists()
    assert "no step made a model that writes text" in caplog.text


def test_rewards_and_scorers_of_missing_steps_are_done_without():
    stage = {"reward": {"folder": "@reward_modeling"}, "gold": {"_target_": "rule"}}
    evaluation = {"scorers": {"rule": {"_target_": "rule"}, "flagged": {"folder": "@flag_classification"}}}
    step = Step("ppo", {"init_from": "@sft", "stage": stage, "evaluation": evaluation})
    left = judged(step, {"sft": None}).config
    assert left["stage"] == {"reward": None, "gold": {"_target_": "rule"}}
    assert list(left["evaluation"]["scorers"]) == ["rule"]


def test_models_that_have_no_room_together_are_let_go_of_and_read_again(runs, tmp_path, monkeypatch):
    for number in range(3):  # as many stages as models that could be held
        shutil.copytree(runs["ppo"], tmp_path / f"dpo_{number}")
    every = {**runs, **{f"dpo_{number}": tmp_path / f"dpo_{number}" for number in range(3)}}
    config = {"ledger": True, "answers": SETTINGS, "report": False, "stages": {}, "best_of_n": {"n": 0}}
    config["export"] = {"to": None}
    parents = dict.fromkeys(every, "instruction_tuning") | {"instruction_tuning": None}
    ledgers, held = [], []
    read = final_evaluation.load_shared

    def counted(folder, **how):
        gc.collect()
        held.append(sum(isinstance(one, LoadedModel) for one in gc.get_objects()))
        return read(folder, **how)

    monkeypatch.setattr(final_evaluation, "load_shared", counted)
    for room in (final_evaluation.ROOM, 1):
        monkeypatch.setattr(final_evaluation, "ROOM", room)
        evaluate_pipeline(config, tmp_path, every, parents, {name: run / "model" for name, run in every.items()})
        ledgers.append((tmp_path / "ledger.json").read_text())
    assert ledgers[0] == ledgers[1]
    assert max(held[: len(every)]) >= 1 and max(held[len(every) :]) == 1, "beside the one that is read"


def test_ledger_best_of_n_and_answers_read_each_folder_once_and_let_go_of_it(runs, tmp_path, monkeypatch):
    language = load_language_model(runs["instruction_tuning"] / "model")
    reward = tmp_path / "reward_modeling"
    save_model(reward / "model", ScoreModel.from_language_model(language), load_tokenizer(runs["ppo"] / "model"))
    (reward / "config.yaml").write_text(CONFIG.replace("ppo.PPO", "reward_modeling.RewardModeling"))
    write_heldout(reward / "heldout", Heldout("rankings", "rankings", (RANKED,)))
    learned = f"{{_target_: lit_llm.rewards.learned.LearnedReward, folder: {reward}/model}}"
    for stage in runs:
        judged = CONFIG.replace("_partial_: true}", f"_partial_: true, reward: {learned}, gold: {learned}}}")
        (runs[stage] / "config.yaml").write_text(judged)
    items = (Prompt((Message("user", "The mat?"),)),)
    write_heldout(runs["instruction_tuning"] / "heldout", Heldout("prompts", "prompts", items))
    gold = {"_target_": "lit_llm.rewards.learned.LearnedReward", "folder": "@reward_modeling"}
    best_of_n = {"n": 2, "prompts": 1, "model": "instruction_tuning", "proxy": "reward_modeling", "gold": gold}
    best_of_n |= {"max_new_tokens": 2, "temperature": 1.0, "seed": 0, "batch_size": 2}
    config = {"ledger": True, "answers": SETTINGS, "report": False, "best_of_n": best_of_n, "export": {"to": None}}
    reads = count_reads(monkeypatch)
    every = {"instruction_tuning": runs["instruction_tuning"], "reward_modeling": reward, "ppo": runs["ppo"]}
    parents = {"instruction_tuning": None, "reward_modeling": "instruction_tuning", "ppo": "instruction_tuning"}
    outputs = {name: run / "model" for name, run in every.items()}
    evaluate_pipeline({**config, "cache_dir": str(tmp_path / "cache/stages")}, tmp_path, every, parents, outputs)
    ledger = json.loads((tmp_path / "ledger.json").read_text())["entries"]
    assert {"prompts", "prompts_ppo", "rankings"} == {entry["set"] for entry in ledger}
    assert {"score/reward", "score/gold", "kl/answer"} <= {entry["metric"] for entry in ledger}
    assert json.loads((tmp_path / "best_of_n.json").read_text())["points"] and written(tmp_path)["answers"]
    expected = {f"{what} {folder}" for folder in outputs.values() for what in ("read_tensors", "read_engine")}
    expected |= {f"read_heldout {file}" for run in every.values() for file in (run / "heldout").iterdir()}
    assert reads == dict.fromkeys(expected, 1)
    gc.collect()
    for folder in outputs.values():
        load_shared(folder)
    assert all(reads[f"read_tensors {folder}"] == 2 for folder in outputs.values()), "nobody held it any more"
