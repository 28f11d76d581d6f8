"""A weighted sum is that, of texts and of what was sampled; each part keeps its own scores and reads what it reads."""

import math

import pytest
import torch
from hydra.utils import instantiate

from lit_llm.config.command_line import compose
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.records import Message, Prompt, Rollout
from lit_llm.rewards.function import FunctionReward
from lit_llm.rewards.scoring import Answers, fitting, score
from lit_llm.rewards.weighted import WeightedSum
from tests.stages.toy import tiny_model

LOGGED = ("kl", "scores", "unverified", "zero_std_groups", "truncated", "pass@8")
RULES = "tests.rewards.rules_of_ones_own"
PROMPTS = [(Message("user", "why?"),)] * 2
TEXTS = ["one", "two words"]
ROWS = [{"answer": "one"}, {"answer": "3"}]


class ByTokens:
    """Reads tokens, and refuses texts: a rollout must never be decoded for it."""

    folders = ("/reward",)

    def score_tokens(self, input_ids, lengths):  # noqa: ARG002
        return input_ids[:, 0].float()

    def __call__(self, *_):
        raise AssertionError("tokens were to be used")


def rules():
    return {
        "words": {"reward": FunctionReward(function=f"{RULES}.words"), "weight": 0.5},
        "right": {"reward": FunctionReward(function=f"{RULES}.right")},
    }


def answers():
    rollout = Rollout(
        input_ids=torch.tensor([[7, 8, 1], [9, 8, 8]]),
        prompt_lengths=torch.tensor([1, 1]),
        lengths=torch.tensor([3, 3]),
        finished=torch.tensor([True, False]),
        logps=torch.zeros(2, 2),
        mask=torch.ones(2, 2, dtype=torch.bool),
    )
    prompts = [Prompt(PROMPTS[0], tags={"answer": "8"}), Prompt(PROMPTS[1], tags={"answer": "1"})]
    return Answers(rollout, lambda: prompts, lambda ids: " ".join(map(str, ids)))


def test_the_sum_of_texts():
    reward = WeightedSum(parts=rules())
    assert reward(PROMPTS, TEXTS, rows=ROWS).tolist() == [0.5 * 1 + 1, 0.5 * 2 + 0]
    assert reward.latest["words"].tolist() == [1, 2] and reward.latest["right"].tolist() == [1, 0]


def test_each_part_reads_a_rollout_in_its_own_way():
    reward = WeightedSum(parts={**rules(), "model": {"reward": ByTokens(), "weight": -2}})
    assert score(reward, answers()).tolist() == [0.5 * 1 + 1 - 2 * 7, 0.5 * 2 + 0 - 2 * 9]
    assert reward.latest["model"].tolist() == [7, 9] and reward.folders == ("/reward",)


def test_what_one_part_cannot_verify_the_sum_cannot():
    reward = WeightedSum(parts={**rules(), "open": {"reward": lambda *_: [math.nan, 0.0], "weight": 0.0}})
    assert [math.isnan(value) for value in reward(PROMPTS, TEXTS, rows=ROWS).tolist()] == [True, False]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts: none"),
        *(({name: {"reward": len}}, f"objective/{name} is logged already") for name in LOGGED),
        ({"a": len}, r"parts\.a: must be \{reward"),
        ({"a": {"reward": len, "wieght": 1}}, r"parts\.a: must be"),
        ({"a": {"reward": len, "weight": math.inf}}, r"parts\.a\.weight: inf"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts, message):
    with pytest.raises(UserError, match=message):
        WeightedSum(parts=parts)


def test_a_part_that_cannot_score_is_named():
    with pytest.raises(UserError, match=r"reward\.parts\.a: int cannot be called"):
        fitting(WeightedSum(parts={"a": {"reward": 3}}), tiny_model(), None)


def test_parts_are_put_together_on_the_command_line():
    words = ["stage=ppo", "init_from=f", "stage/reward=weighted_sum", "part.words=function", "part.other=function",
             f"stage.reward.parts.words.reward.function={RULES}.words", "stage.reward.parts.words.weight=0.5",
             f"stage.reward.parts.other.reward.function={RULES}.right", "gold=function",
             f"stage.gold.function={RULES}.words"]  # fmt: skip
    cfg = compose("train", words)
    validate(cfg)
    reward = instantiate(cfg.stage.reward, _convert_="all")
    assert reward(PROMPTS, TEXTS, rows=ROWS).tolist() == [1.5, 1.0]
    assert instantiate(cfg.stage.gold)(PROMPTS, TEXTS) == [1, 2]
