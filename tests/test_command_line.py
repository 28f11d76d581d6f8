"""What the user is told when Hydra stands between a mistake and its message."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_llm import config as schema
from lit_llm.command_line import _own, check, compose, rewrite
from lit_llm.errors import UserError


def test_the_message_inside_hydras_is_found(tmp_path):
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "lit_llm.rewards.learned.LearnedReward", "folder": str(tmp_path / "nowhere")})
    found = _own(caught.value)
    assert isinstance(found, UserError) and "nowhere" in str(found) and "\n" not in str(found)
    assert _own(ValueError("of somebody else")) is None


@pytest.fixture
def registered():
    schema.register()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("config", "words", "place"),
    [
        ("train", ["stage=pretraining", "schedule=linear"], "schedule"),
        ("train", ["experiment=pretraining", "schedule=linear", "schedule.warmup_ratio=0.2"], "schedule"),
        ("pipeline", ["stages.pretraining.optimizer=adamw"], "stages.pretraining.optimizer"),
    ],
)
def test_another_option_takes_no_value_of_the_experiment_s_own(config, words, place):
    check(config, rewrite(config, words))  # decay_ratio, muon_lr and momentum would be unknown keys
    chosen = OmegaConf.select(compose(config, words), place)
    assert "decay_ratio" not in chosen and "muon_lr" not in chosen
    assert chosen.get("warmup_ratio") in (0.05, 0.2, None) and chosen.get("weight_decay", 0.1) == 0.1


@pytest.mark.usefixtures("registered")
def test_a_value_that_the_user_gives_the_other_option_is_not_taken_away():
    with pytest.raises(UserError, match=r"schedule\.decay_ratio"):
        check("train", rewrite("train", ["stage=pretraining", "schedule=linear", "schedule.decay_ratio=0.5"]))
