"""Trainings that go on by turns, each in a process of its own, and when each got to a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.command import say
from benchmarks.to_loss.training import Recipe, Training
from benchmarks.worker import Worker

PARTS = 10
"""Of a training: a turn is one of them. Arriving within a part counts as arriving at its end."""


@dataclass(frozen=True)
class Subject:
    """What everybody trains on: a text, a seed, and the split that judges (``Training``'s ``validation``)."""

    text: Path
    nanogpt: Path
    seed: int
    validation: bool


@dataclass(frozen=True)
class Mark:
    """The state after a part: optimizer steps, seconds by the wall and by the processor, loss if read.

    The seconds hold the first call, in which a compiler works: who waits for a loss waits for it too.
    """

    steps: int
    seconds: float
    cpu_seconds: float
    loss: float


@dataclass
class Course:
    """One training as it went: ``compile_seconds`` is its first forward and backward, which every mark holds."""

    recipe: Recipe
    compile_seconds: float = 0.0
    peak_gb: float = 0.0
    marks: list[Mark] = field(default_factory=list)

    @property
    def last(self) -> Mark:
        return self.marks[-1]

    def reached(self, loss: float) -> Mark | None:
        """The first mark at or below ``loss``."""
        return next((mark for mark in self.marks if mark.loss <= loss), None)


def courses(
    recipes: Mapping[str, Recipe], subject: Subject, shipped: frozenset[str], threads: int | None
) -> dict[str, Course]:
    """Trains all by turns. Those in ``shipped`` keep the C library's own allocator settings."""
    found = {name: Course(recipe) for name, recipe in recipes.items()}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, recipe in recipes.items():
            make = partial(make_training, recipe, subject)
            workers[name] = stack.enter_context(Worker(name, make, name not in shipped, threads))
            found[name].compile_seconds = workers[name].first_seconds
        names = list(recipes)
        for turn in range(PARTS):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                _advance(found[name], workers[name])
            say(f"seed {subject.seed}, part {turn + 1} of {PARTS}: " + "; ".join(_told(found)))
    return found


def make_training(recipe: Recipe, subject: Subject, parts: int = PARTS) -> Training:
    return Training(recipe, subject.text, subject.nanogpt, subject.seed, parts, subject.validation)


def _advance(course: Course, worker: Worker) -> None:
    _, seconds = worker.timed(1)
    course.peak_gb, numbers = worker.described()
    before = course.last.seconds if course.marks else course.compile_seconds
    loss = numbers.get("loss", math.nan)
    course.marks.append(Mark(int(numbers["steps"]), before + seconds, numbers["cpu_seconds"], loss))


def _told(found: Mapping[str, Course]) -> list[str]:
    return [f"{name} {course.last.seconds:.1f} s, {course.last.loss:.4f}" for name, course in found.items()]
