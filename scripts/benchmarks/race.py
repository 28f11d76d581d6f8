"""Rounds in which everybody runs after everybody else, each in a process of its own.

A process each, because two things that are measured belong to a whole process: its peak memory, and what its C
allocator does with freed memory. Rounds, because a machine's moods then hit all alike: only ratios of the same round
are trusted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

import torch

from benchmarks.worker import Worker
from lit_llm.errors import UserError

LONG = 5.0
"""Seconds of a call after which the next one is taken to be as long: the first calls of short ones are no measure."""

ROOM = 1.5
"""Times the memory of the largest so far that must be free for the next: steps take more than what a start has left."""


class Timed(Protocol):
    """What a contestant runs; ``numbers() -> dict[str, float]`` is optional.

    On a GPU it needs ``wait()``, until the GPU is done, and ``device``, whose memory then is what is measured.
    """

    @property
    def units(self) -> float:
        """Of work in one call: tokens, answers, steps."""
        ...

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Args:
        name: who, and in which configuration.
        make: builds it, in its own process; must be picklable (a ``functools.partial`` of a function of a module).
        tuned: with the allocator keeping freed memory (``lit_llm.runtime.allocator``).
    """

    name: str
    make: Callable[[], Timed]
    tuned: bool = True


@dataclass(frozen=True)
class Result:
    """What one contestant did: units a second of every round, in the rounds' order."""

    name: str
    rounds: tuple[float, ...]
    peak_gb: float = 0.0  # of resident memory, the process's libraries included; on a GPU, of what was allocated there
    first_seconds: float = 0.0  # of the first call, in which a compiler works
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.rounds)

    def against(self, other: Result) -> tuple[float, float, float]:
        """Median, smallest and largest of the rounds' ratios to ``other``: this one is so many times as fast."""
        ratios = [mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def race(
    contestants: Sequence[Contestant],
    rounds: int = 5,
    seconds: float = 1.0,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    fresh: bool = False,
) -> list[Result]:
    """Times everybody ``rounds`` times for about ``seconds``; the order turns by one with every round.

    The first calls, in which compilers and allocators settle, are not counted. ``fresh`` starts every process anew in
    every round, so that one is in memory at a time: for large models. Raises UserError for one that fails, by name,
    where nobody takes part, and where all together would not fit the memory.
    """
    if not contestants:
        raise UserError("nobody takes part in this race; a list such as precision= or kinds= is empty")
    if rounds < 1:
        raise UserError(f"rounds={rounds}: must be at least 1")
    measured: dict[str, list[Result]] = {contestant.name: [] for contestant in contestants}
    with ExitStack() as stack:
        start = functools.partial(_started, seconds=seconds, threads=threads, say=say)
        workers = {} if fresh else _started_together(contestants, stack, start)
        for turn in range(rounds):
            for contestant in [*contestants[turn % len(contestants) :], *contestants[: turn % len(contestants)]]:
                if fresh:
                    with start(contestant) as worker:
                        measured[contestant.name].append(worker.measure())
                else:
                    measured[contestant.name].append(workers[contestant.name].measure())
            say(f"round {turn + 1} of {rounds}")
    return [_gather(name, results) for name, results in measured.items()]


def _started_together(
    contestants: Sequence[Contestant], stack: ExitStack, start: Callable[..., AbstractContextManager[_Measuring]]
) -> dict[str, _Measuring]:
    """Each is started only where the memory has room for another like the largest so far: a machine that swaps
    measures its disk, and hardly answers."""
    workers: dict[str, _Measuring] = {}
    largest, free = 0.0, free_gb()
    for contestant in contestants:
        if free < ROOM * largest:
            raise UserError(
                f"{len(workers)} of {len(contestants)} contestants fill the memory ({free:.1f} GB are free, one took "
                f"{largest:.1f}): give fresh=true, which has one at a time, or let fewer take part"
            )
        workers[contestant.name] = stack.enter_context(start(contestant))
        before, free = free, free_gb()
        largest = max(largest, before - free)
    return workers


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_gb() -> float:
    """Memory that processes can still have, in 1e9 bytes; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e9
    except (OSError, StopIteration):
        return math.inf


@contextmanager
def _started(
    contestant: Contestant, seconds: float, threads: int | None, say: Callable[[str], None]
) -> Iterator[_Measuring]:
    with Worker(contestant.name, contestant.make, contestant.tuned, threads) as worker:
        units, took = worker.timed(1)
        if took < LONG:
            worker.timed(1)
            units, took = worker.timed(1)
        say(f"{contestant.name}: warm, {units / took:,.3g} a second")
        yield _Measuring(contestant.name, worker, max(1, round(seconds / took)))


@dataclass(frozen=True)
class _Measuring:
    name: str
    worker: Worker
    calls: int

    def measure(self) -> Result:
        units, took = self.worker.timed(self.calls)
        peak, numbers = self.worker.described()
        return Result(self.name, (units / took,), peak, self.worker.first_seconds, numbers)


def _gather(name: str, results: Sequence[Result]) -> Result:
    """One contestant's rounds as one result: the memory and the first call are the worst of them."""
    return Result(
        name,
        tuple(result.rounds[0] for result in results),
        max(result.peak_gb for result in results),
        max(result.first_seconds for result in results),
        results[-1].numbers,
    )


def fastest(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: result.median)
