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
    assert f"note: {OLD}: is written stage.reward_validation_every_n_steps=3 now" in told


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
    assert all(renamed.word("train", f"stage.{key}=1")[0] == [f"stage.{new}=1"] for key, new in renamed.KEYS.items())


def test_the_validation_of_an_older_reward_model_is_read(tmp_path):
    (tmp_path / "exam.json").write_text('{"passed": true, "reasons": []}')
    assert read_result(tmp_path) == {"passed": True, "reasons": []}


def test_only_a_stage_s_keys_are_renamed():
    saved = {"stages": {"exam": {"init_from": "@exam"}}, "evaluation": {"scorers": {"exam": {"seed": 1}}}}
    assert renamed.values(saved) == saved
    assert renamed.values({"stages": {"ppo": {"stage": {"exam": 1}}}})["stages"]["ppo"]["stage"] == {
        "reward_validation": 1
    }
    assert renamed.word("pipeline", "stages.exam.trainer.max_steps=3") == (["stages.exam.trainer.max_steps=3"], None)
    new = "stages.ppo.stage.ignore_reward_validation=true"
    assert renamed.word("pipeline", "stages.ppo.stage.ignore_exam=true")[0] == [new]
    (monitored,), _ = renamed.word("train", "callbacks.checkpoints.monitor=exam/passed")
    assert monitored.endswith("monitor=reward_validation/passed")


@pytest.mark.parametrize(
    ("name", "old", "now"),
    [
        ("train", "experiment=dpo", "run=dpo"),
        ("train", "experiment=dpo,ppo", "run=dpo,ppo"),
        ("train", "experiment=mine", "experiment=mine"),
        ("train", "loss@stage.loss=ipo", "loss=ipo"),
        ("train", "stage/reward=length", "reward=length"),
        ("train", "+format@data=alpaca", "format=alpaca"),
        ("train", "format=my_formats.hotline", "data.format=my_formats.hotline"),
        ("train", "gold=learned", "+reward@stage.gold=learned"),
        ("train", "part.a=learned", "+reward@stage.reward.parts.a.reward=learned"),
        ("train", "logger=null", "logger=none"),
        ("train", "~schedule.decay_ratio", "~schedule.decay_ratio"),
        ("pipeline", "experiment=pipeline/mine", "experiment=pipeline/mine"),
        ("train", "~logger", "~logger"),
        ("pipeline", "from=dpo", "start_from=dpo"),
        ("pipeline", "experiment=pipeline/tiny", "experiment=tiny"),
        ("pipeline", "stages.ppo.kl_coef=0.1", "stages.ppo.stage.kl_coef=0.1"),
        ("pipeline", "stages.ppo.optimzer.lr=1", "stages.ppo.optimzer.lr=1"),
        ("pipeline", "stages.ppo.seed=1", "stages.ppo.seed=1"),
        ("pipeline", "stages.ppo.optimizer=muon", "optimizer@stages.ppo.optimizer=muon"),
        ("pipeline", "stages.ppo.optimizer.lr=1", "stages.ppo.optimizer.lr=1"),
        ("pipeline", "stages.dpo.loss=ipo", "loss@stages.dpo.stage.loss=ipo"),
        ("pipeline", "stages.dpo.format=alpaca", "stages.dpo.data.format=alpaca"),
        ("pipeline", "stages.dpo.evaluation=null", "stages.dpo.evaluation.enabled=false"),
        ("pipeline", "rankings.enough=7", "people.enough=7"),
        ("pipeline", "rankings.k=3", "annotation.k=3"),
        ("pipeline", "rankings=null", "annotation=null"),
        ("pipeline", "people.rankings=a.db", "rankings=a.db"),
        ("pipeline", "rankings=a.db", "rankings=a.db"),
    ],
)
def test_words_of_earlier_versions(name, old, now):
    words, told = renamed.word(name, old)
    assert " ".join(words) == now and (told is None) == (old == now)


def test_a_saved_pipeline_of_before_is_read():
    saved = {"stages": {}, "rankings": {"k": 3}, "people": {"rankings": None, "enough": 7}}
    assert renamed.values(saved) == {
        "stages": {}, "rankings": "simulated", "annotation": {"k": 3}, "people": {"enough": 7},
    }  # fmt: skip
    saved["people"]["rankings"] = "a.db"
    assert renamed.values(saved)["rankings"] == "a.db"
