"""Learning-rate schedules, counted in optimizer steps: a warm-up, then a shape down to ``min_lr_ratio`` of the peak.

Each multiplies every group's own learning rate by a ratio, so that Muon and AdamW keep their proportion.
``start_lr_ratio`` is where the warm-up starts: continued pretraining re-warms from where pretraining ended (Ibrahim et
al., arXiv:2403.08763) and then decays again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_llm.errors import UserError


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_ratio: float | None = None,
    min_lr_ratio: float = 0.1,
    start_lr_ratio: float = 0.0,
) -> LambdaLR:
    """Half a cosine from the peak to ``min_lr_ratio``. ``warmup_ratio`` is a share of all steps."""

    def shape(progress: float) -> float:
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return _warmed(optimizer, total_steps, warmup_steps, warmup_ratio, min_lr_ratio, start_lr_ratio, shape)


def linear(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_ratio: float | None = None,
    min_lr_ratio: float = 0.0,
    start_lr_ratio: float = 0.0,
) -> LambdaLR:
    """A straight line from the peak to ``min_lr_ratio``."""

    def shape(progress: float) -> float:
        return 1 - (1 - min_lr_ratio) * progress

    return _warmed(optimizer, total_steps, warmup_steps, warmup_ratio, min_lr_ratio, start_lr_ratio, shape)


def constant(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_ratio: float | None = None,
    start_lr_ratio: float = 0.0,
) -> LambdaLR:
    """The peak, after the warm-up."""
    return _warmed(optimizer, total_steps, warmup_steps, warmup_ratio, 1.0, start_lr_ratio, lambda _: 1.0)


def wsd(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_ratio: float | None = None,
    min_lr_ratio: float = 0.0,
    start_lr_ratio: float = 0.0,
    decay_ratio: float = 0.2,
) -> LambdaLR:
    """Warm-up, stable, decay (Hu et al., arXiv:2404.06395): the peak, then over the last ``decay_ratio`` of the steps
    after the warm-up down by ``1 - sqrt`` (Haegele et al., arXiv:2405.18392, section 3)."""
    if not 0 < decay_ratio <= 1:
        raise UserError(f"schedule.decay_ratio: {decay_ratio}; must be above 0 and at most 1")

    def shape(progress: float) -> float:
        decayed = max(0.0, progress - (1 - decay_ratio)) / decay_ratio
        return 1 - (1 - min_lr_ratio) * math.sqrt(decayed)

    return _warmed(optimizer, total_steps, warmup_steps, warmup_ratio, min_lr_ratio, start_lr_ratio, shape)


def _warmed(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int,
    warmup_ratio: float | None,
    min_lr_ratio: float,
    start_lr_ratio: float,
    shape: Callable[[float], float],
) -> LambdaLR:
    """The ratio of step 0 is that of the first update: never 0, or the update would be lost."""
    if warmup_ratio is not None:
        if warmup_steps:
            raise UserError(f"schedule.warmup_ratio: {warmup_ratio}, and warmup_steps is {warmup_steps}; give one")
        warmup_steps = round(warmup_ratio * total_steps)
    for name, value in {"min_lr_ratio": min_lr_ratio, "start_lr_ratio": start_lr_ratio}.items():
        if not 0 <= value <= 1:
            raise UserError(f"schedule.{name}: {value}; must be between 0 and 1")
    if warmup_steps < 0 or total_steps < 1:
        raise UserError(f"schedule.warmup_steps: {warmup_steps} of {total_steps} steps; neither may be negative")
    warmup = min(warmup_steps, total_steps)  # a short trial run of a long run's configuration still warms up

    def ratio(step: int) -> float:
        if step < warmup:
            return start_lr_ratio + (1 - start_lr_ratio) * (step + 1) / warmup
        return shape(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, ratio)
