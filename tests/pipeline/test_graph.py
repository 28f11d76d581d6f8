"""The whole chain on next to nothing, once: everything that it must leave behind is there and verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_llm.backbone.huggingface import load_model
from lit_llm.config.command_line import compose
from lit_llm.lineage import lineage
from lit_llm.lineage.verification import verify
from lit_llm.pipeline import command as pipeline
from lit_llm.records import Message
from lit_llm.text.tokenizer import load_tokenizer
from tests.chain_data import chain_overrides, write_data

STAGES = (
    "pretraining", "continued_pretraining", "fine_tuning", "instruction_tuning", "flag_classification",
    "reward_modeling", "ppo", "dpo",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    write_data(root / "data")
    return chain_overrides(root / "data", root / "cache")


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "one"
    pipeline.run_pipeline(compose("pipeline", words), folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_a_run_folder(folder, stage):
    for name in ("model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/lineage.json",
                 "model/README.md", "metrics.json", "config.yaml", "checkpoints"):  # fmt: skip
        assert (folder / stage / name).exists(), name
    metrics = json.loads((folder / stage / "metrics.json").read_text())
    assert metrics["hardware"]["precision"] in ("32-true", "bf16-mixed") and metrics["hardware"]["threads"] == 1
    assert metrics["heldout"] and metrics["steps"] > 0 and metrics["counts"]["read"] > 0


def test_the_model_is_compared_with_the_one_before(folder):
    metrics = json.loads((folder / "continued_pretraining/metrics.json").read_text())
    before, after = metrics["before"]["domain"]["bits_per_byte"], metrics["heldout"]["domain"]["bits_per_byte"]
    assert before["n"] == after["n"] and before["mean"] != after["mean"]


def test_every_byte_verifies_to_the_corpus(folder):
    folders, differences = verify(folder / "ppo/model")
    assert differences == [] and len(folders) == 8
    record = lineage.read(folder / "ppo/model")
    assert {parent["role"] for parent in record["parents"]} == {
        "init_from",
        "stage.reward.folder",
        "evaluation.scorers.flagged.folder",
    }
    assert [Path(item["path"]).name for item in lineage.read(folder / "pretraining/model")["data"]["files"]] == [
        "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip


def test_simulated_rankings_are_marked_wherever_they_went(folder):
    assert "simulated" in (folder / "rankings/collected/train.jsonl").read_text()
    for stage in STAGES:
        marked = "**Simulated preferences.**" in (folder / stage / "model/README.md").read_text()
        assert marked == (stage in ("flag_classification", "reward_modeling", "ppo", "dpo"))


def test_ledger_answers_and_report_are_there(folder):
    ledger = json.loads((folder / "ledger.json").read_text())
    seen = {(entry["stage"], entry["set"]) for entry in ledger["entries"]}
    learned = {entry["stage"] for entry in ledger["entries"] if entry["metric"] == "implicit_accuracy"}
    assert learned == {"dpo"}
    assert "implicit_accuracy" in json.loads((folder / "dpo/metrics.json").read_text())["heldout"]["rankings"]
    assert {("ppo", "general"), ("ppo", "prompts"), ("instruction_tuning", "prompts"), ("dpo", "rankings")} <= seen
    answers = json.loads((folder / "answers.json").read_text())
    assert set(answers["answers"]) == set(STAGES) - {"flag_classification", "reward_modeling"}
    assert len(answers["answers"]["ppo"]) == len(answers["prompts"]) == 3
    assert "hashes verified" in (folder / "report.html").read_text()


def test_the_final_model_answers(folder):
    from lit_llm.generation.sampling import respond

    model, tokenizer = load_model(folder / "ppo/model"), load_tokenizer(folder / "ppo/model")
    texts = respond(model, tokenizer, [(Message("user", "What does open_file do?"),)], max_new_tokens=4)
    assert len(texts) == 1


@pytest.mark.slow  # the next one reuses seven
def test_a_second_pipeline_reuses_all_of_it(folder, words, tmp_path):
    pipeline.run_pipeline(compose("pipeline", words), tmp_path / "two")
    summary = json.loads((tmp_path / "two/pipeline.json").read_text())["stages"]
    assert all(step["reused"] for step in summary.values()) and len(summary) == 9
    assert (tmp_path / "two/ppo").resolve() == (folder / "ppo").resolve()


def test_without_ppo_what_came_before_is_reused_and_its_held_out_prompts_are_answered_all_the_same(
    folder, words, tmp_path, caplog
):
    caplog.set_level("INFO", "lit_llm")
    pipeline.run_pipeline(compose("pipeline", [*words, "skip=[ppo]"]), tmp_path / "without")
    steps = json.loads((tmp_path / "without/pipeline.json").read_text())["stages"]
    assert len(steps) == 8 and [name for name, step in steps.items() if not step["reused"]] == ["dpo"], (
        "DPO trains on what PPO held out, and nothing else is new"
    )
    assert (tmp_path / "without/reward_modeling").resolve() == (folder / "reward_modeling").resolve()
    entries = json.loads((tmp_path / "without/ledger.json").read_text())["entries"]
    dpo = {entry["metric"]: entry for entry in entries if (entry["stage"], entry["set"]) == ("dpo", "prompts")}
    assert {"kl/answer", "score/rule", "score/reward", "score/flagged"} <= set(dpo)
    assert dpo["score/flagged"]["against"] == "instruction_tuning" and dpo["score/flagged"]["before"] is not None
    assert {entry["stage"] for entry in entries if entry["set"] == "prompts"} == {"instruction_tuning", "dpo"}
    assert dpo["length"]["noise_floor"] is not None
    before = json.loads((folder / "best_of_n.json").read_text())
    assert json.loads((tmp_path / "without/best_of_n.json").read_text()) == before, "the same prompts"
    assert len(json.loads((tmp_path / "without/answers.json").read_text())["prompts"]) == 3
    kept = tmp_path / "without/skipped/ppo/heldout/prompts.jsonl"
    line = next(line for line in caplog.text.splitlines() if f"prompts={kept}" in line)
    assert f"model={tmp_path}/without/dpo/model against={tmp_path}/without/instruction_tuning/model" in line
    assert not (tmp_path / "without/ppo").exists()


def test_tensorboard_has_curves_and_hyperparameters_with_metrics(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "instruction_tuning"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert min(tags).startswith("Loss/") and {"Loss/val", "hp/objective"} <= set(tags), "the loss is the first card"
    assert any(tag.startswith("heldout/instructions/") for tag in tags)
