"""How much work a race gets, and in which precisions: from what this processor does in a second.

A race calls everybody ``STARTS`` times before its first round and once in every round. What a call costs is estimated:
the operations of its matrix products at the speed that this machine multiplies with, times ``SLOWER``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from lit_llm.runtime import processor

MINUTES = 8.0
"""Of a race, by default."""

STARTS = 2
"""Calls before the rounds, of contestants whose calls take seconds: see ``race``."""

SLOWER = 3.0
"""Times a call's bare products that contestants take in the mean: 1.3 here, 3 to 6 of those that pad their rows."""

_SIZES = (1024, 384, 1024)  # rows, in, out: of layers such as the ones that race
_SECONDS = 0.3


def default_precisions(*named: str) -> tuple[str, ...]:
    """Of these, in bfloat16 and in float32, those that the machine is good at: emulated, bfloat16 would take minutes a
    step and win nothing."""
    if processor.has_bf16():
        return named
    return tuple(name for name in named if not name.startswith("bf16"))


def products_a_second(threads: int | None, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of matrix products, the best of some."""
    before = torch.get_num_threads()
    rows, inner, out = _SIZES
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(out, inner, dtype=dtype)
    try:
        torch.set_num_threads(threads or before)
        best, until = float("inf"), time.perf_counter() + _SECONDS
        while time.perf_counter() < until:
            began = time.perf_counter()
            torch.mm(left, right.T)
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2.0 * rows * inner * out / best


class Machine:
    """What this one does, and how many parts of work fit a race of ``minutes``."""

    def __init__(
        self,
        minutes: float,
        threads: int | None,
        measure: Callable[[int | None, torch.dtype], float] = products_a_second,
    ) -> None:
        self.minutes, self.threads, self._measure = minutes, threads, measure
        self._speeds: dict[torch.dtype, float] = {}

    def speed(self, bf16: bool) -> float:
        dtype = torch.bfloat16 if bf16 else torch.float32
        if dtype not in self._speeds:
            self._speeds[dtype] = self._measure(self.threads, dtype)
        return self._speeds[dtype]

    def parts(self, operations: dict[str, float], rounds: int, most: int) -> int:
        """From 1 to ``most`` parts a call, each of which takes so many ``operations`` of all contestants together, by
        their precision's name."""
        seconds = sum(count * SLOWER / self.speed(name.startswith("bf16")) for name, count in operations.items())
        return max(1, min(most, int(self.minutes * 60 / ((rounds + STARTS) * max(seconds, 1e-9)))))

    def said(self, size: str) -> str:
        """For a record's conditions."""
        speeds = " and ".join(
            f"{value / 1e9:,.0f} in {'bfloat16' if dtype == torch.bfloat16 else 'float32'}"
            for dtype, value in self._speeds.items()
        )
        return f"sized for {self.minutes:g} minutes on a machine of {speeds} billion operations a second: {size}"
