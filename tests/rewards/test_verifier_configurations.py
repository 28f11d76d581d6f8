"""Every verifier can be chosen by name for GRPO, alone or in a sum, and what it is given is checked before anything."""

import pytest
from hydra.utils import instantiate

from lit_llm.config.command_line import compose
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.verifiable import check_verifiable
from lit_llm.rewards.verifiers import ExactAnswer

WORDS = {
    "exact_answer": [],
    "word_count": [],
    "length": ["stage.reward.most=5"],
    "format": ["stage.reward.template='{a}: {b}'"],
    "regular_expression": ["stage.reward.pattern=x+"],
}


@pytest.mark.parametrize("name", WORDS)
def test_each_is_chosen_by_its_name(name):
    cfg = compose("train", ["stage=grpo", "init_from=m", f"reward={name}", *WORDS[name]])
    validate(cfg)
    reward = instantiate(cfg.stage.reward, _convert_="all")
    extra = {"rows": [{"answer": "3", "words": "4"}]} if getattr(reward, "row_fields", False) else {}
    assert reward([(Message("user", "How many?"),)], ["xx: it is 3"], **extra) == [1.0]


def test_a_misspelt_key_is_one_line():
    cfg = compose("train", ["stage=grpo", "init_from=m", "reward=exact_answer", "+stage.reward.tolerence=0.1"])
    with pytest.raises(UserError, match=r"stage.reward.tolerence=0.1: unknown key; did you mean tolerance\?"):
        validate(cfg)


def test_nothing_is_asked_of_rewards_that_read_no_tag():
    check_verifiable(lambda *_: 1 / 0, ["prompt"])
    check_verifiable(ExactAnswer(), [])
