"""A reward model that failed its validation is refused in one line, unless it is told to be taken all the same."""

import json
import logging

import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import Estimate
from lit_llm.rewards.validation.gate import RewardValidationFailed, require_passed
from lit_llm.rewards.validation.result import NAME, Probe, ValidationResult


def result(share):
    probe = Probe(share, 0.03, 200, 0.2, share <= 0.2)
    return ValidationResult(Estimate(0.6, 0.02, 200), {}, {"empty": probe})


def test_a_failed_validation_stops_with_the_numbers_in_one_line(tmp_path):
    result(0.61).save(tmp_path)
    with pytest.raises(RewardValidationFailed) as caught:
        require_passed(tmp_path)
    line = str(caught.value)
    assert isinstance(caught.value, UserError) and "\n" not in line and line.startswith(str(tmp_path))
    assert "an empty answer outscores the real answer on 61% of 200 prompts; at most 20% may be" in line
    assert line.endswith("train directly with stage=dpo instead, or set stage.ignore_reward_validation=true")


def test_it_can_be_ignored_with_a_warning(tmp_path, caplog):
    result(0.61).save(tmp_path)
    with caplog.at_level(logging.WARNING):
        require_passed(tmp_path, ignore=True)
    assert "61%" in caplog.text and "going on" in caplog.text


def test_a_passed_validation_says_nothing(tmp_path, caplog):
    result(0.1).save(tmp_path)
    require_passed(tmp_path)
    assert not caplog.text


def test_without_a_validation_there_is_a_warning(tmp_path, caplog):
    require_passed(tmp_path)
    assert NAME in caplog.text and "not known" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"passed": "yes", "reasons": []})])
def test_what_is_no_validation_is_named(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(UserError, match=f"{NAME}: not a reward model's validation; train the reward model again"):
        require_passed(tmp_path)
