"""The options of optimizers and schedules: what stands below ``optimizer.`` and ``schedule.`` in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import COUNT, EPSILON, PART, RATE, SHARE, Range

NEWTON_SCHULZ_STEPS = 5  # at most


@dataclass(frozen=True, kw_only=True)
class AdamWOptions(Options):
    TARGET: ClassVar[str] = "lit_llm.optim.adamw.adamw"
    GROUP: ClassVar[str] = "optimizer"
    GIVEN: ClassVar[tuple[str, ...]] = ("module",)
    RANGES: ClassVar[Mapping[str, Range]] = {"lr": RATE, "weight_decay": Range(0, 100), "betas": PART, "eps": EPSILON}

    lr: float = 3e-4  # at the schedule's peak
    weight_decay: float = 0.1  # not on embeddings, norms, biases
    betas: tuple[float, float] = (0.9, 0.95)  # of the running means of the gradient and of its square
    eps: float = 1e-8  # beside the root of the mean square


@dataclass(frozen=True, kw_only=True)
class MuonAdamWOptions(AdamWOptions):
    """Muon over the hidden matrices, AdamW over the rest: the default for training from scratch."""

    TARGET: ClassVar[str] = "lit_llm.optim.muon.muon_adamw"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "muon_lr": RATE, "momentum": PART, "newton_schulz_steps": Range(1, NEWTON_SCHULZ_STEPS),
    }  # fmt: skip

    lr: float = 3e-4  # embeddings, heads, norms; for millions of parameters more than for billions
    muon_lr: float | None = None  # hidden matrices; None: lr
    momentum: float = 0.95  # of the hidden matrices
    newton_schulz_steps: int = NEWTON_SCHULZ_STEPS  # 1 to 5; 3 is cheaper, and enough for small models


@dataclass(frozen=True, kw_only=True)
class ConstantOptions(Options):
    """The warm-up, which all schedules have."""

    TARGET: ClassVar[str] = "lit_llm.optim.schedules.constant"
    GROUP: ClassVar[str] = "schedule"
    GIVEN: ClassVar[tuple[str, ...]] = ("optimizer", "total_steps")
    RANGES: ClassVar[Mapping[str, Range]] = {"warmup_steps": COUNT, "warmup_ratio": SHARE, "start_lr_ratio": SHARE}

    warmup_steps: int = 0  # optimizer steps
    warmup_ratio: float | None = None  # share of all steps, in place of warmup_steps
    start_lr_ratio: float = 0.0  # of the peak, where the warm-up starts

    def check(self) -> None:
        super().check()
        if self.warmup_ratio is not None and self.warmup_steps:
            raise UserError(
                f"schedule.warmup_ratio: {self.warmup_ratio}, and warmup_steps is {self.warmup_steps}; give one"
            )

    def warmup(self, total_steps: int) -> int:
        """The warm-up in steps. A short trial run of a long run's configuration still warms up."""
        steps = self.warmup_steps if self.warmup_ratio is None else round(self.warmup_ratio * total_steps)
        return min(steps, total_steps)


@dataclass(frozen=True, kw_only=True)
class FallingOptions(ConstantOptions):
    RANGES: ClassVar[Mapping[str, Range]] = {"min_lr_ratio": SHARE}

    min_lr_ratio: float = 0.0  # of the peak, at the end


@dataclass(frozen=True, kw_only=True)
class CosineOptions(FallingOptions):
    TARGET: ClassVar[str] = "lit_llm.optim.schedules.cosine"

    min_lr_ratio: float = 0.1  # of the peak, at the end


@dataclass(frozen=True, kw_only=True)
class LinearOptions(FallingOptions):
    TARGET: ClassVar[str] = "lit_llm.optim.schedules.linear"


@dataclass(frozen=True, kw_only=True)
class WSDOptions(FallingOptions):
    TARGET: ClassVar[str] = "lit_llm.optim.schedules.wsd"
    RANGES: ClassVar[Mapping[str, Range]] = {"decay_ratio": EPSILON}

    decay_ratio: float = 0.2  # share of the steps after the warm-up
