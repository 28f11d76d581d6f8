"""The range of a number among the options, and what is said of one outside it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included unless ``above`` (``below``) leaves the end out."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    said: str = ""  # in place of the ends

    def fault(self, value: float) -> str | None:
        """What is wrong with a number; None: nothing."""
        if not math.isfinite(value):
            return f"must be a finite number: {self}"
        outside = value < self.low or value > self.high
        if self.said and (outside or (self.above and value == self.low) or (self.below and value == self.high)):
            return f"must be {self.said}"
        if value < self.low or (self.above and value == self.low):
            return f"must be above {_shown(self.low)}" if self.above else f"must be {_shown(self.low)} or more"
        if value > self.high or (self.below and value == self.high):
            return f"must be below {_shown(self.high)}" if self.below else f"must be {_shown(self.high)} or less"
        return None

    def __str__(self) -> str:
        if self.said:
            return self.said
        first = f"above {_shown(self.low)}" if self.above else f"{_shown(self.low)} or more"
        return f"{first} and {'below ' if self.below else ''}{_shown(self.high)}{'' if self.below else ' or less'}"


COUNT, SOME = Range(0, 10**9), Range(1, 10**9)
LONG = Range(1, 10**15)  # tokens and the like
SHARE = Range(0, 1, said="a share from 0 to 1")
PART = Range(0, 1, below=True)  # a share that leaves something over
SEED = Range(0, 2**32 - 1)  # NumPy's
RATE = Range(0, 10, above=True)  # a learning rate
WEIGHT = Range(0, 10**6)
FACTOR = Range(0, 10**6, above=True)
EPSILON = Range(0, 1, above=True)
SECONDS = Range(0, 10**9, above=True)
LENGTH = Range(2, 10**8)  # of rows, in tokens
ROWS = Range(1, 10**6)  # at once
TEMPERATURE = Range(0, 100)  # of sampling; 0: greedy
NAMES = ("path", "replay_path", "ptx_path")  # Hydra reads a file or folder named 2024 as a number


def _shown(value: float) -> str:
    return f"{value:g}" if abs(value) < 10**6 or value != int(value) else f"{int(value):,}"
