"""What the user gave is told from what the package's own files say, wherever it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_llm.config import schema
from lit_llm.config.given_values import given_in


@pytest.fixture(autouse=True)
def _registered():
    schema.register()


def test_words_are_given_and_the_packages_files_are_not():
    given = given_in("train", ["run=dpo", "optimizer.lr=1e-6", "+trainer.max_time=00:01:00:00", "trainer=cpu"])
    assert given.has("optimizer.lr") and given.has("trainer.max_time")
    assert not any(given.has(key) for key in ("trainer.max_epochs", "data.max_length", "optimizer", "seed"))
    assert {"trainer"} <= given.groups and "optimizer" not in given.groups


def test_a_word_gives_all_that_is_in_it():
    given = given_in("train", ["++evaluation={max_items: 3, batch_size: 2}"])
    assert given.has("evaluation.batch_size") and given.has("evaluation") and not given.has("evaluations")


def test_a_file_from_elsewhere_is_given_and_what_it_builds_on_is_not(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "data").mkdir()
    lines = ["# @package _global_", "defaults:", "  - override /stage: instruction_tuning",
             "  - override /optimizer: muon", "  - override /data: mine", "trainer: {max_steps: 7}"]  # fmt: skip
    (tmp_path / "experiment/mine.yaml").write_text("\n".join(lines))
    (tmp_path / "data/mine.yaml").write_text("defaults: [instructions, _self_]\nmax_length: 100\n")
    given = given_in("train", [f"--config-dir={tmp_path}", "experiment=mine"])
    assert {"trainer.max_steps", "data.max_length"} <= given.keys
    assert not given.has("optimizer.lr") and not given.has("data.micro_batch_size")
    assert {"optimizer", "data", "stage"} <= given.groups and "schedule" not in given.groups


def test_an_overlay_and_a_named_preset_are_given():
    assert given_in("train", ["stage=dpo", "debug=limit"]).has("evaluation.max_new_tokens")
    tiny, default = given_in("pipeline", ["experiment=tiny"]), given_in("pipeline", [])
    assert tiny.has("stages.ppo.stage.max_new_tokens") and not default.has("stages.ppo.stage.max_new_tokens")
    assert not tiny.has("stages.ppo.optimizer.lr")  # of the default, which it builds on


def test_groups_of_a_pipelines_stage_are_named_by_their_place():
    assert "stages.dpo.optimizer" in given_in("pipeline", ["optimizer@stages.dpo.optimizer=muon"]).groups
