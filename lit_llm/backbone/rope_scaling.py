"""How rotary frequencies are stretched for contexts longer than the pretrained one: the settings, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import FACTOR, SOME, Range

RopeKind = Literal["llama3", "linear", "dynamic", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeScaling(Options):
    """How rotary frequencies are stretched for contexts longer than the pretrained one.

    ``linear`` divides every frequency by ``factor`` (Chen et al. 2023, position interpolation). ``llama3`` divides only
    the low ones and blends in between, by wavelength against ``original_max_positions`` (Llama 3.1's release).
    ``dynamic`` raises the base with the length of a document beyond the context (NTK-aware, "dynamic NTK"). ``yarn``
    divides those that turn less than ``beta_slow`` times in the original context, keeps those that turn more than
    ``beta_fast`` times, blends in between, and sharpens attention (Peng et al. 2023). ``longrope`` divides each by a
    number of its own, ``short_factor`` up to the original context and ``long_factor`` beyond it (Ding et al. 2024).

    ``attention_factor``: what yarn and longrope multiply turned queries and keys by; None: as their papers have it.
    """

    TARGET: ClassVar[str] = "lit_llm.backbone.config.RopeScaling"
    GROUP: ClassVar[str] = "rope_scaling"
    KEY: ClassVar[str] = "backbone.rope_scaling"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "factor": Range(0, 10**6), "low_freq_factor": FACTOR, "high_freq_factor": FACTOR,
        "original_max_positions": SOME, "attention_factor": FACTOR, "beta_fast": FACTOR, "beta_slow": FACTOR,
        "mscale": FACTOR, "mscale_all_dim": Range(0, 10**6), "short_factor": FACTOR, "long_factor": FACTOR,
    }  # fmt: skip

    kind: RopeKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: Sequence[float] = ()
    long_factor: Sequence[float] = ()

    def check(self) -> None:
        least = 0 if self.kind == "longrope" else 1
        self.one_of("kind", get_args(RopeKind))
        if not self.factor >= least:
            raise self.wrong("factor", f"must be at least {least}")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise self.wrong("low_freq_factor", f"must be above 0 and below high_freq_factor={self.high_freq_factor}")
        if self.kind == "yarn" and not 0 < self.beta_slow <= self.beta_fast:
            raise self.wrong("beta_slow", f"must be above 0 and at most beta_fast={self.beta_fast}")
        for name in ("short_factor", "long_factor") if self.kind == "longrope" else ():
            numbers = tuple(getattr(self, name))
            if not numbers or not all(number > 0 for number in numbers):
                raise self.wrong(name, "must be numbers above 0, one for each turned pair of a head")
            object.__setattr__(self, name, numbers)
        super().check()

    def check_pairs(self, pairs: int) -> None:
        """Raises UserError where longrope's factors are not one for each of so many turned pairs."""
        if self.kind == "dynamic" and pairs < 2:
            raise self.wrong("kind", "needs two turned pairs of a head at least")
        for name in ("short_factor", "long_factor") if self.kind == "longrope" else ():
            if len(getattr(self, name)) != pairs:
                raise self.wrong(name, f"must be {pairs} numbers, one for each turned pair of a head")

    @property
    def by_length(self) -> bool:
        """Whether frequencies depend on how long a document is."""
        return self.kind in ("dynamic", "longrope")

    @property
    def magnitude(self) -> float:
        """What turned queries and keys are multiplied by."""
        if self.kind not in ("yarn", "longrope"):
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.kind == "longrope":
            over = math.log(self.factor) / math.log(self.original_max_positions) if self.factor > 1 else 0.0
            return math.sqrt(1 + over)
        if self.mscale and self.mscale_all_dim:
            return _mscale(self.factor, self.mscale) / _mscale(self.factor, self.mscale_all_dim)
        return _mscale(self.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
