"""Old names are read, and the new one is said."""

import pytest
from omegaconf import OmegaConf

from lit_llm.config import renamed, schema
from lit_llm.config.command_line import check, command, compose
from lit_llm.errors import UserError
from lit_llm.rewards.validation.result import read_result

OLD = "stage.exam_every_n_steps=3"


def test_an_old_key_on_the_command_line_does_what_the_new_one_does(capsys, tmp_path):
    words = ["stage=ppo", f"init_from={tmp_path}", f"stage.reward.folder={tmp_path}"]
    cfg = compose("train", [*words, OLD])
    assert cfg.stage.reward_validation_every_n_steps == 3 and "exam_every_n_steps" not in cfg.stage
    assert compose("pipeline", ["stages.ppo.ignore_exam=true"]).stages.ppo.stage.ignore_reward_validation is True
    with pytest.raises(SystemExit):
        command("train", print, ["stage=ppo", OLD, "sed=1"])
    told = capsys.readouterr().err
    assert f"note: {OLD}: is called stage.reward_validation_every_n_steps=3 now" in told


def test_an_old_key_in_a_file_of_ones_own_says_the_new_one(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /stage: ppo\nstage:\n  ignore_exam: true\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"ignore_exam=True: is called stage\.ignore_reward_validation now"):
        check("train", ["experiment=mine", f"--config-dir={tmp_path}", f"stage.reward.folder={tmp_path}"])


def test_a_saved_configuration_is_read_by_the_names_of_now(tmp_path):
    values = {
        "stage": {"exam": {"_target_": "lit_llm.evaluation.reward_exam.RewardExam", "seed": 1}},
        "logger": [{"_target_": "lit_llm.loggers.csv"}],
    }
    OmegaConf.save(values, tmp_path / "config.yaml")
    found = renamed.values(OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")))
    assert found == {
        "stage": {"reward_validation": {"_target_": renamed.TARGETS[values["stage"]["exam"]["_target_"]], "seed": 1}},
        "logger": [{"_target_": "lit_llm.training.loggers.csv"}],
    }
    OmegaConf.save({"stage": values["stage"]}, tmp_path / "config.yaml")
    assert schema.load(tmp_path / "config.yaml").stage.reward_validation.seed == 1


def test_the_new_names_are_there():
    from lit_llm.config.targets import definitions

    assert list(definitions("lit_llm.rewards.validation.validator.RewardValidator"))
    assert all(renamed.word(f"stage.{key}=1")[0] == f"stage.{new}=1" for key, new in renamed.KEYS.items())


def test_the_validation_of_an_older_reward_model_is_read(tmp_path):
    (tmp_path / "exam.json").write_text('{"passed": true, "reasons": []}')
    assert read_result(tmp_path) == {"passed": True, "reasons": []}


def test_only_a_stage_s_keys_are_renamed():
    saved = {"stages": {"exam": {"init_from": "@exam"}}, "evaluation": {"scorers": {"exam": {"seed": 1}}}}
    assert renamed.values(saved) == saved
    assert renamed.values({"stages": {"ppo": {"stage": {"exam": 1}}}})["stages"]["ppo"]["stage"] == {
        "reward_validation": 1
    }
    assert renamed.word("stages.exam.trainer.max_steps=3") == ("stages.exam.trainer.max_steps=3", None)
    assert renamed.word("stages.ppo.stage.ignore_exam=true")[0] == "stages.ppo.stage.ignore_reward_validation=true"
    assert renamed.word("callbacks.checkpoints.monitor=exam/passed")[0].endswith("monitor=reward_validation/passed")
