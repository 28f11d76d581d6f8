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
from lit_llm.optim.options import ConstantOptions, CosineOptions, LinearOptions, WSDOptions


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = CosineOptions.warmup_steps,
    warmup_ratio: float | None = CosineOptions.warmup_ratio,
    min_lr_ratio: float = CosineOptions.min_lr_ratio,
    start_lr_ratio: float = CosineOptions.start_lr_ratio,
) -> LambdaLR:
    """Half a cosine from the peak to ``min_lr_ratio``. ``warmup_ratio`` is a share of all steps."""
    options = CosineOptions(
        warmup_steps=warmup_steps, warmup_ratio=warmup_ratio, min_lr_ratio=min_lr_ratio, start_lr_ratio=start_lr_ratio
    )

    def shape(progress: float) -> float:
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return _warmed(optimizer, total_steps, options, shape)


def linear(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = LinearOptions.warmup_steps,
    warmup_ratio: float | None = LinearOptions.warmup_ratio,
    min_lr_ratio: float = LinearOptions.min_lr_ratio,
    start_lr_ratio: float = LinearOptions.start_lr_ratio,
) -> LambdaLR:
    """A straight line from the peak to ``min_lr_ratio``."""
    options = LinearOptions(
        warmup_steps=warmup_steps, warmup_ratio=warmup_ratio, min_lr_ratio=min_lr_ratio, start_lr_ratio=start_lr_ratio
    )

    def shape(progress: float) -> float:
        return 1 - (1 - min_lr_ratio) * progress

    return _warmed(optimizer, total_steps, options, shape)


def constant(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = ConstantOptions.warmup_steps,
    warmup_ratio: float | None = ConstantOptions.warmup_ratio,
    start_lr_ratio: float = ConstantOptions.start_lr_ratio,
) -> LambdaLR:
    """The peak, after the warm-up."""
    options = ConstantOptions(warmup_steps=warmup_steps, warmup_ratio=warmup_ratio, start_lr_ratio=start_lr_ratio)
    return _warmed(optimizer, total_steps, options, lambda _: 1.0)


def wsd(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = WSDOptions.warmup_steps,
    warmup_ratio: float | None = WSDOptions.warmup_ratio,
    min_lr_ratio: float = WSDOptions.min_lr_ratio,
    start_lr_ratio: float = WSDOptions.start_lr_ratio,
    decay_ratio: float = WSDOptions.decay_ratio,
) -> LambdaLR:
    """Warm-up, stable, decay (Hu et al., arXiv:2404.06395): the peak, then over the last ``decay_ratio`` of the steps
    after the warm-up down by ``1 - sqrt`` (Haegele et al., arXiv:2405.18392, section 3)."""
    options = WSDOptions(
        warmup_steps=warmup_steps,
        warmup_ratio=warmup_ratio,
        min_lr_ratio=min_lr_ratio,
        start_lr_ratio=start_lr_ratio,
        decay_ratio=decay_ratio,
    )

    def shape(progress: float) -> float:
        decayed = max(0.0, progress - (1 - decay_ratio)) / decay_ratio
        return 1 - (1 - min_lr_ratio) * math.sqrt(decayed)

    return _warmed(optimizer, total_steps, options, shape)


def _warmed(
    optimizer: Optimizer, total_steps: int, options: ConstantOptions, shape: Callable[[float], float]
) -> LambdaLR:
    """The ratio of step 0 is that of the first update: never 0, or the update would be lost."""
    if total_steps < 1:
        raise UserError(f"schedule: {total_steps} steps; there must be 1 or more")
    warmup, start = options.warmup(total_steps), options.start_lr_ratio

    def ratio(step: int) -> float:
        if step < warmup:
            return start + (1 - start) * (step + 1) / warmup
        return shape(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, ratio)
