"""The race is fair and its figures are what they are called."""

import math
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from benchmarks import race as module
from benchmarks.race import Contestant, Result, free_gb, race
from benchmarks.worker import peak_gb

from lit_llm.errors import UserError


class Sleeper:
    """Takes ``seconds`` a call."""

    units = 10

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def __call__(self):
        self.calls += 1
        time.sleep(self.seconds)

    def numbers(self):
        return {"calls": float(self.calls)}


def broken():
    raise ValueError("no such model")


def mistaken():
    raise UserError("path=x: is not there")


def interrupted():
    raise KeyboardInterrupt  # Ctrl+C: every process of the group hears of it (a signal itself may be ignored in tests)


class Recorded:
    """Stands in for a contestant's process: it only writes down when it ran."""

    log: ClassVar[list] = []
    first_seconds = 0.25

    def __init__(self, name, make, *_):
        self.name, self.speed = name, make

    def timed(self, calls):
        self.log.append((self.name, calls))
        return 10.0 * calls, 10.0 * calls / self.speed

    def described(self):
        return 1.0 + len(self.log), {}

    def __enter__(self):
        self.log.append((self.name, "starts"))
        return self

    def __exit__(self, *_):
        self.log.append((self.name, "ends"))


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(module, "Worker", Recorded)
    Recorded.log = []
    return Recorded.log


PAIR = [Contestant("a", 100.0), Contestant("b", 400.0)]


def test_rounds_are_interleaved_take_turns_at_being_first_and_last_equally_long(log):
    results = race(PAIR, rounds=3, seconds=0.5)
    assert log[:8] == [("a", "starts"), *[("a", 1)] * 3, ("b", "starts"), *[("b", 1)] * 3]  # warming up
    assert log[8:14] == [("a", 5), ("b", 20), ("b", 20), ("a", 5), ("a", 5), ("b", 20)]
    assert [(each.name, each.rounds) for each in results] == [("a", (100.0,) * 3), ("b", (400.0,) * 3)]


def test_long_calls_are_not_repeated_before_the_rounds(log):
    """Where a call takes minutes, the race would not begin for an hour."""
    race([Contestant("long", 10.0 / module.LONG)], rounds=2, seconds=0.5)
    assert log == [("long", "starts"), *[("long", 1)] * 3, ("long", "ends")]


def test_fresh_processes_are_one_at_a_time(log):
    race(PAIR, rounds=2, seconds=0.5, fresh=True)
    assert [entry for entry in log if isinstance(entry[1], str)] == [
        (name, what) for name in "abba" for what in ("starts", "ends")
    ]


@pytest.mark.usefixtures("log")
def test_a_race_that_would_fill_the_memory_says_so_before_it_swaps(monkeypatch):
    free = iter([10.0, 7.0, 4.4])  # GB: the first one takes 3
    monkeypatch.setattr(module, "free_gb", lambda: next(free))
    with pytest.raises(
        UserError, match=r"2 of 3 contestants fill the memory \(4.4 GB are free, one took 3.0\): give fr"
    ):
        race([Contestant(name, 100.0) for name in "abc"], rounds=1)
    monkeypatch.undo()
    assert 0.1 < free_gb() < 1e6 if Path("/proc/meminfo").exists() else free_gb() == math.inf


@pytest.mark.slow  # it starts processes
def test_a_process_of_its_own_is_timed_from_outside():
    contestants = [Contestant("slow", partial(Sleeper, 0.2)), Contestant("fast", partial(Sleeper, 0.05), tuned=False)]
    slow, fast = race(contestants, rounds=3, seconds=0.4, threads=1)  # a busy machine wakes them up some ms late
    assert 1.5 < fast.against(slow)[0] < 4.5 and slow.median <= 50
    assert slow.peak_gb > 0.01 and slow.first_seconds >= 0.2 and slow.numbers["calls"] > 6


def test_who_fails_is_named(capfd, monkeypatch):
    fork = multiprocessing.get_context("fork")  # or each would import torch anew
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    with pytest.raises(UserError, match=r"^mine: ValueError: no such model$"):
        race([Contestant("mine", broken)], threads=1)
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"^mine: path=x: is not there$"):
        race([Contestant("mine", mistaken)], threads=1)
    with pytest.raises(UserError, match=r"^mine: its process ended"):
        race([Contestant("mine", interrupted)], threads=1)
    assert "Traceback" not in capfd.readouterr().err


def test_a_race_of_nobody_or_of_no_rounds_is_a_mistake():
    with pytest.raises(UserError, match="nobody takes part"):
        race([])
    with pytest.raises(UserError, match="rounds=0"):
        race(PAIR, rounds=0)


def test_memory_is_that_of_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3e9)
    assert peak_gb(torch.device("cuda")) == 3.0 != peak_gb(torch.device("cpu")) > 0.01


def test_ratios_are_of_the_same_rounds():
    fast, slow = Result("here x", (10.0, 40.0, 30.0)), Result("peer x", (5.0, 10.0, 10.0))
    assert fast.against(slow) == (3.0, 2.0, 4.0)
