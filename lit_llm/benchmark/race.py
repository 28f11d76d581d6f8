"""Rounds in which everybody runs after everybody else, so that a machine's moods hit all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol


class Timed(Protocol):
    @property
    def tokens(self) -> int: ...

    def timed(self, steps: int) -> float: ...


@dataclass(frozen=True)
class Result:
    """Tokens a second of every round, in the rounds' order (the same for all results of a race)."""

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    def against(self, other: Result) -> tuple[float, float, float]:
        """Median, smallest and largest of the rounds' ratios to ``other``: this one is so many times as fast."""
        ratios = [mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def race(
    steps: Mapping[str, Timed], rounds: int, seconds: float, say: Callable[[str], None] = lambda _: None
) -> list[Result]:
    """Times every step ``rounds`` times for about ``seconds``; the order turns by one with every round.

    The first steps, in which compilers and allocators settle, are not counted.
    """
    counts = {}
    for name, step in steps.items():
        step.timed(2)
        speed = step.timed(1)
        counts[name] = max(1, round(seconds * speed / step.tokens))
        say(f"{name}: warm, {speed:,.0f} tokens/s")
    measured: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            measured[name].append(steps[name].timed(counts[name]))
        say(f"round {turn + 1} of {rounds}")
    return [Result(name, tuple(values)) for name, values in measured.items()]


def fastest(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: result.median)
