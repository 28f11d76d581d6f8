"""Every reward has one face: the package's own derive from it, and what a user brings is given it."""

import ast
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lit_llm
from lit_llm.errors import UserError
from lit_llm.feedback import rule
from lit_llm.records import Message
from lit_llm.rewards.base import Reward, as_reward
from lit_llm.rewards.folders import folders_of
from lit_llm.rewards.scoring import fitting
from lit_llm.rewards.verifiers import ExactAnswer, Length, WordCount
from lit_llm.rewards.weighted import WeightedSum
from tests.rewards import rules_of_ones_own as rules
from tests.stages.toy import tiny_model

PACKAGE = Path(lit_llm.__file__).parent
CONFIGURATIONS = sorted(
    file for file in (PACKAGE.parent / "conf" / "reward").glob("*.yaml") if "_target_" in file.read_text("utf-8")
)
PROMPTS = [(Message("user", "why?"),)] * 2
TEXTS = ["one", "two words"]
ROWS = [{"answer": "one"}, {}]


def no_rows():
    raise AssertionError("it takes no rows, and the prompts may have none")


class Verifier:
    """A user's class that derives from nothing."""

    row_fields, tag, folder = True, "answer", "/reward"

    def __call__(self, prompts, completions, rows):  # noqa: ARG002
        self.latest = {"length": [len(text) for text in completions]}
        pairs = zip(completions, rows, strict=True)
        return [float(row["answer"] == text) if "answer" in row else math.nan for text, row in pairs]


class Network(nn.Module):
    """A user's network that reads tokens."""

    validated, folder = True, "/network"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def score_tokens(self, input_ids, lengths):  # noqa: ARG002
        return self.weight * lengths

    def forward(self, prompts, completions):  # noqa: ARG002
        return self.weight * torch.tensor([len(text) for text in completions])


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_every_reward_of_the_package_derives_from_it(file):
    module, _, name = yaml.safe_load(file.read_text(encoding="utf-8"))["_target_"].rpartition(".")
    assert issubclass(getattr(import_module(module), name), Reward)


def test_a_reward_is_itself():
    reward = Length(most=1)
    assert as_reward(reward) is reward
    assert not reward.reads_tokens and not reward.row_fields and reward.tag is None and reward.vocab_size is None
    assert reward.latest == {} == reward.parts and reward.folders == () and reward.contexts() == []
    assert reward.score_texts(PROMPTS, TEXTS, lambda: ROWS) == [1, 0]
    with pytest.raises(NotImplementedError, match="Reward: define __call__"):
        Reward()(PROMPTS, TEXTS)


@pytest.mark.parametrize("function", [rules.words, lambda _, texts: [len(text.split()) for text in texts]])
def test_a_function_has_the_face_of_a_reward(function):
    reward = as_reward(function)
    assert isinstance(reward, Reward) and reward.described() == "function"
    assert reward(PROMPTS, TEXTS) == reward.score_texts(PROMPTS, TEXTS, no_rows) == [1, 2]
    assert not reward.reads_tokens and reward.latest == {} == reward.parts and folders_of(function) == ()
    assert as_reward(reward) is reward


def test_the_rule_of_the_simulated_annotators_has_it_too():
    assert as_reward(rule.reward).score_texts(PROMPTS, TEXTS, lambda: ROWS) == rule.reward(PROMPTS, TEXTS)


def test_a_class_that_can_be_called_says_what_it_needs_and_what_it_found():
    reward = as_reward(Verifier())
    assert reward.row_fields and reward.tag == "answer" and reward.described() == "Verifier"
    assert reward.latest == {} and reward.folders == ()  # the folder is not said to be validated
    scores = reward.score_texts(PROMPTS, TEXTS, lambda: ROWS)
    assert scores[0] == 1 and math.isnan(scores[1]) and reward.latest == {"length": [3, 9]}


def test_a_network_stays_a_submodule_of_its_owner():
    network = Network()
    reward = WeightedSum(parts={"mine": {"reward": network}})
    part = reward.parts["mine"]
    assert part.reads_tokens and reward.folders == part.folders == ("/network",)
    assert part.score_tokens(torch.zeros(2, 3), torch.tensor([1, 2])).tolist() == [1, 2]
    assert reward(PROMPTS, TEXTS).tolist() == [3, 9]
    assert list(reward.parameters()) == [network.weight]
    fitted = fitting(network, tiny_model(), None)
    assert isinstance(fitted, nn.Module) and fitted.given is network and not network.training
    assert not network.weight.requires_grad


def test_a_sum_of_the_user_s_own_has_parts():
    class Sum:
        def __init__(self):
            self.parts = {"short": rules.words}

        def combine(self, scores):
            return -scores["short"]

        def __call__(self, *_):
            raise AssertionError("its parts were to be used")

    reward = as_reward(Sum())
    assert reward.parts["short"](PROMPTS, TEXTS) == [1, 2] and reward.combine({"short": torch.ones(1)}).item() == -1


def test_what_is_no_sum_may_call_something_else_parts():
    class Rule:
        parts = {"weight": 0.5}  # noqa: RUF012

        def __call__(self, prompts, completions):  # noqa: ARG002
            return [self.parts["weight"]] * len(completions)

    reward = as_reward(Rule())
    assert reward.parts == {} and reward.contexts() == [] and reward(PROMPTS, TEXTS) == [0.5, 0.5]


def test_what_it_can_read_is_told_by_its_model():
    class Model:
        def __init__(self, score_model, tokenizer):
            self.model, self.tokenizer = score_model, tokenizer

        def __call__(self, prompts, completions):  # noqa: ARG002
            return [0.0] * len(completions)

    inner = Model(tiny_model(), object())
    config = inner.model.config
    reward = as_reward(inner)
    assert reward.contexts() == [(inner.tokenizer, config.max_positions)] and reward.vocab_size == config.vocab_size
    assert reward.score_models() == []  # a language model gives no score
    inside = WeightedSum(parts={"mine": {"reward": inner}, "rule": {"reward": rules.words}})
    assert inside.contexts() == reward.contexts() and inside.vocab_size is None


def test_the_tag_is_the_one_that_was_given():
    assert ExactAnswer().tag == "answer" and ExactAnswer(tag="x").tag == "x" and WordCount().tag == "words"
    assert ExactAnswer.row_fields and WordCount.row_fields


@pytest.mark.parametrize("nothing", [None, 3, "text"])
def test_what_cannot_be_called_is_refused_by_name(nothing):
    with pytest.raises(UserError, match=f"^gold: {type(nothing).__name__} cannot be called; see conf/reward/$"):
        as_reward(nothing, "gold")


def test_nobody_else_asks_what_a_reward_has():
    """In the rooms that take rewards only the adapter looks for an attribute that a user's reward may lack."""
    face = {name for name in vars(Reward) if not name.startswith("__")} | {"folder", "members", "model", "validated"}
    for file in sorted([*(PACKAGE / "rewards").rglob("*.py"), *(PACKAGE / "evaluation").rglob("*.py")]):
        if file != PACKAGE / "evaluation" / "reward.py":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                    name = node.args[1]
                    assert not (isinstance(name, ast.Constant) and name.value in face), f"{file}: {ast.unparse(node)}"
