"""Contestants in generation do the same task, and what is counted is what was asked for."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from benchmarks.contestants import Shape
from benchmarks.generation.here import Here, draw
from benchmarks.generation.peers import Continuous, LitGPT, Transformers
from benchmarks.generation.work import Settings, _contestants, _goals
from benchmarks.matmuls import MatmulsAlone, Products

from lit_llm.errors import UserError
from lit_llm.generation.weights import _pays

BOTH = ("bf16", "fp32")
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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_continuous_batching_gives_every_prompt_the_answer_that_it_gets_alone(task, attention):
    peer, mine = Continuous(task, attention), Here(task)
    answers = peer.run(task.prompts, task.limits, False)
    assert [len(answer) for answer in answers] == list(task.limits)
    alone = [mine.run([prompt], [limit], 0.0) for prompt, limit in zip(task.prompts, task.limits, strict=True)]
    assert [[*p, *answer] for p, answer in zip(task.prompts, answers, strict=True)] == alone
    assert peer.numbers() == mine.numbers()
    peer()
    kept = peer.model._cached_continuous_batching_manager
    peer()
    assert peer.model._cached_continuous_batching_manager is kept
    assert peer.run(task.prompts, task.limits, False) == answers


@pytest.mark.parametrize("batch", [1, 2])
def test_litgpt_has_the_same_weights(batch):
    pytest.importorskip("litgpt")
    task = draw(replace(SHAPE, batch=batch), torch.float32, 2, (5, 5), (3, 8))
    peer = LitGPT(task)
    assert peer.numbers() == Here(task).numbers()
    prompts, limit = task.batches()[0]
    assert len(peer.run(prompts, 5, limit, 1.0)) == limit


def test_static_caches_and_litgpt_also_run_compiled_and_rivals_of_none_are_left_out():
    names = [each.name for each in _contestants(Settings(precision=BOTH, peers="transformers", attention=("sdpa",)))]
    assert names[:5] == [
        "here bf16",
        "transformers bf16 dynamic sdpa",
        "transformers bf16 static sdpa",
        "transformers bf16 static sdpa compiled",
        "transformers bf16 continuous sdpa",
    ]
    alone = ["here bf16", "matmuls alone bf16", "here fp32", "matmuls alone fp32"]
    assert [each.name for each in _contestants(Settings(precision=BOTH, peers="", compile=False))] == alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_roofline_has_all_products_of_the_answers(dtype):
    """Of one prompt of n tokens and m new ones: all layers read n - 1 tokens (the last one asks for keys and values
    alone), then m times one; the head m times."""
    task = replace(draw(SHAPE, dtype, 1, (9, 9), (4, 4)), shape=replace(SHAPE, batch=1))
    here = Here(task)
    with Products() as products:
        here()
    counted = Counter()
    for (a, b), times in products.counted.items():
        if len(a.shape) == 2:
            counted[b.shape] += a.shape[0] * times
    decoded, layers = 4, SHAPE.layers
    assert counted[32, 50] == decoded  # the head
    assert counted[32, 3 * 32] == layers * (decoded + 8)
    assert counted[32, 32] == layers * decoded + (layers - 1) * 8  # what attention gives
    assert any(b.packed for _, b in products.counted) == _pays(torch.zeros(16, 8, dtype=dtype), rows=1)
    MatmulsAlone(here, torch.device("cpu"))()


def test_rivals_are_of_the_same_precision_and_then_of_any():
    names = ["here bf16", "litgpt bf16", "matmuls alone bf16", "here fp32", "litgpt fp32", "matmuls alone fp32"]
    rivals = [(goal.ours, list(goal.rivals)) for goal in _goals(Settings(precision=BOTH), names)]
    assert rivals[:2] == [(["here bf16"], ["litgpt bf16"]), (["here bf16"], ["matmuls alone bf16"])]
    assert rivals[2] == (["here fp32"], ["litgpt fp32"])
    assert rivals[4] == (["here bf16", "here fp32"], ["litgpt bf16", "litgpt fp32"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": ("bf17",)}, "precision=bf17"),
        ({"answer": (9, 3)}, "answer=9,3"),
        ({"batch": 0}, "batch=0"),
        ({"prompt": (16,)}, "prompt=16: two numbers"),
        ({"precision": ()}, "precision=: must be"),
        ({"attention": ("flash",)}, "attention=flash"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError, match=said):
        Settings(**options)
