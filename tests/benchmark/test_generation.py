"""Contestants in generation do the same task, and what is counted is what was asked for."""

import pytest
import torch

from lit_llm.benchmark.contestants import Shape
from lit_llm.benchmark.generation import Settings, _goals
from lit_llm.benchmark.generators import Here, Transformers, draw
from lit_llm.errors import UserError

SHAPE = Shape(32, 2, 2, 50, 64, batch=2, qk_norm=False)


@pytest.fixture(scope="module")
def task():
    return draw(SHAPE, torch.float32, 4, (2, 9), (3, 8))


def test_lengths_are_drawn_and_a_peer_works_batch_by_batch_to_the_longest(task):
    assert all(2 <= len(prompt) <= 9 for prompt in task.prompts) and all(3 <= limit <= 8 for limit in task.limits)
    assert len(set(task.limits)) > 1 and task.units == sum(task.limits)
    assert [limit for _, limit in task.batches()] == [max(task.limits[:2]), max(task.limits[2:])]
    assert [prompt for prompts, _ in task.batches() for prompt in prompts] == list(task.prompts)


def test_all_answers_are_as_long_as_was_asked_for(task):
    ids = Here(task).run(task.prompts, task.limits, 1.0)
    assert len(ids) == len(task.prompts[-1]) + task.limits[-1] and tuple(ids[: -task.limits[-1]]) == task.prompts[-1]


@pytest.mark.parametrize(("cache", "attention"), [("dynamic", "sdpa"), ("static", "eager")])
def test_transformers_has_the_same_weights(task, cache, attention):
    peer, mine = Transformers(task, cache, attention), Here(task)
    prompts, limit = task.batches()[0]
    torch.manual_seed(0)
    longest = max(map(len, prompts))
    assert peer.run(prompts, limit, True).shape == (2, longest + limit)
    greedy = peer.run(task.prompts[:1], 8, False)[0].tolist()
    assert greedy == mine.run(task.prompts[:1], [8], 0.0) and sum(greedy) == peer.numbers()["greedy"]


def test_rivals_are_of_the_same_precision_and_then_of_any():
    names = ["here bf16", "litgpt bf16", "here fp32", "litgpt fp32"]
    rivals = [(goal.ours, list(goal.rivals)) for goal in _goals(Settings(), names)]
    assert rivals[:2] == [("here bf16", ["litgpt bf16"]), ("here fp32", ["litgpt fp32"])]
    assert rivals[2] == ("here bf16", ["litgpt bf16", "litgpt fp32"])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"precision": ("bf17",)}, "precision=bf17"), ({"answer": (9, 3)}, "answer=9,3"), ({"batch": 0}, "batch=0")],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError, match=said):
        Settings(**options)
