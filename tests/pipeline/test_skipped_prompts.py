"""Steps that cannot be made are left out, with what needs them, and the chain goes on."""

from __future__ import annotations

import json

import pytest

from lit_llm.errors import NothingToLearn, UserError
from lit_llm.pipeline import command as pipeline
from lit_llm.rewards.validation.gate import RewardValidationFailed

from .test_command import ALL, KEPT, changed, default, ran, run  # noqa: F401 (fixtures)


@pytest.fixture
def failing(run, monkeypatch):  # noqa: F811, ARG001
    """``run`` in which some steps raise: {name: error}."""
    import lit_llm.training.command

    errors: dict[str, Exception] = {}
    good = lit_llm.training.command.execute

    def execute(cfg, folder):
        name = folder.name.rpartition("-")[0]
        if name in errors:
            raise errors[name]
        return good(cfg, folder)

    monkeypatch.setattr("lit_llm.training.command.execute", execute)
    return errors


def test_a_failed_validation_leaves_ppo_out_and_the_chain_goes_on(run, failing, tmp_path, caplog):  # noqa: F811
    failing["ppo"] = RewardValidationFailed("below the floor; train directly with stage=dpo instead")
    assert run() == [name for name in ALL if name != "ppo"]
    summary = json.loads((tmp_path / "one/pipeline.json").read_text())
    assert summary["skipped"] == {"ppo": "below the floor; train directly with stage=dpo instead"}
    assert "ppo: left out: below the floor" in caplog.text and not (tmp_path / "one/ppo").exists()
    assert run("objective=ppo", name="two") == [], "what was made is reused, the evaluator is asked again"


def test_what_comes_of_a_step_that_was_left_out_is_left_out_too(run, failing, tmp_path):  # noqa: F811
    failing["ppo"] = RewardValidationFailed("below the floor")
    assert run("stages.dpo.init_from='@ppo'")[-1] == "reward_modeling"
    left = json.loads((tmp_path / "one/pipeline.json").read_text())["skipped"]
    assert left["dpo"] == "it needs ppo, which was left out"


def test_a_sweep_does_not_compare_another_stage_s_number(run, failing, tmp_path, default):  # noqa: F811
    failing["ppo"] = RewardValidationFailed("below the floor")
    run()
    cfg = changed(default, [f"cache_dir={tmp_path}/cache", f"annotation.prompts={tmp_path}/prompts.jsonl"])
    for name in [*KEPT, "ppo"]:
        cfg.stages[name].data.path = f"{tmp_path}/data.txt"
    cfg.stages.continued_pretraining.data.replay_path = f"{tmp_path}/data.txt"
    assert pipeline.run_pipeline(cfg, tmp_path / "two")["objective"] is None


def test_rankings_without_flags_leave_the_classifier_out_and_ppo_is_made_without_its_scorer(run, failing, tmp_path):  # noqa: F811
    failing["flag_classification"] = NothingToLearn("only bad completions")
    assert run() == [name for name in ALL if name != "flag_classification"]
    assert "flag_classification" in json.loads((tmp_path / "one/pipeline.json").read_text())["skipped"]


def test_skipping_the_classifier_skips_its_scorer_alone(run):  # noqa: F811
    assert run("skip=[flag_classification]") == [name for name in ALL if name != "flag_classification"]


def test_any_other_mistake_stops_the_chain(run, failing):  # noqa: F811
    failing["ppo"] = UserError("data.path: empty")
    with pytest.raises(UserError, match=r"ppo: data\.path: empty"):
        run()
