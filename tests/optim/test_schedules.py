"""Ratios by optimizer step, at the places where they are known."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant, cosine, linear, wsd


def ratios(schedule: Callable, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    scheduler = schedule(optimizer, total)
    rates = []
    for _ in range(total + 1):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", [cosine, linear, constant, wsd])
def test_warm_up_is_linear_and_reaches_the_peak(schedule: Callable) -> None:
    assert ratios(partial(schedule, warmup_steps=4), 20)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert ratios(partial(schedule, warmup_ratio=0.2), 20)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_shapes() -> None:
    assert ratios(partial(cosine, min_lr_ratio=0.1), 10)[::5] == pytest.approx([1.0, 0.55, 0.1])
    assert ratios(linear, 10)[::5] == pytest.approx([1.0, 0.5, 0.0])
    assert ratios(constant, 10) == [1.0] * 11
    stable = ratios(partial(wsd, decay_ratio=0.4), 10)
    assert stable[:7] == [1.0] * 7
    assert stable[7:] == pytest.approx([1 - math.sqrt(x) for x in (0.25, 0.5, 0.75, 1.0)])


def test_rewarming_starts_where_the_last_run_ended() -> None:
    rates = ratios(partial(cosine, warmup_steps=3, start_lr_ratio=0.1), 9)
    assert rates[:3] == pytest.approx([0.4, 0.7, 1.0])


def test_groups_keep_their_proportion() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (1.0, 3.0)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    cosine(optimizer, 10, warmup_steps=2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5]


def test_a_short_trial_of_a_long_warm_up_runs() -> None:
    assert ratios(partial(cosine, warmup_steps=100), 2)[:2] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio"),
        ({"start_lr_ratio": -0.1}, "start_lr_ratio"),
        ({"warmup_steps": 2, "warmup_ratio": 0.1}, "warmup_ratio"),
    ],
)
def test_bad_values_are_named(values: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=f"schedule.{key}"):
        ratios(partial(cosine, **values), 10)
    if key != "min_lr_ratio":
        with pytest.raises(UserError, match=f"schedule.{key}"):
            ratios(partial(constant, **values), 10)


def test_bad_decay_is_named() -> None:
    with pytest.raises(UserError, match=r"schedule\.decay_ratio"):
        ratios(partial(wsd, decay_ratio=0.0), 10)
