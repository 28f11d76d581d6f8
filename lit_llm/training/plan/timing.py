"""Time of a run, from a few of its own steps: its parts are built as the run builds them, and stopped after those."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from omegaconf import DictConfig, OmegaConf

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.checkpointing.random_state import RandomState
from lit_llm.evaluation.heldout import can_evaluate
from lit_llm.runtime.lightning_loops import step_ended
from lit_llm.runtime.progress_bars import Bar
from lit_llm.training.build import Parts
from lit_llm.training.evaluate import device_of, evaluator_of
from lit_llm.training.trainer import build

STEPS = 3  # measured, after one that is not: kernels are chosen and memory is taken in it


@dataclass(frozen=True)
class Time:
    """Seconds of a run by part, each from what was measured of it."""

    step: float  # one optimizer step, or one rollout with its updates
    steps: int
    validation: float  # all validations on the way
    before: float  # the evaluation of the model that it starts from
    after: float  # the evaluation of what it made
    start: float = 0.0  # reading model and data
    launch: float = 0.0  # of the process: Python, torch, the configuration

    @property
    def total(self) -> float:
        return self.launch + self.start + self.step * self.steps + self.validation + self.before + self.after


class MeasuredSteps(L.Callback):
    """Times so many steps after a first one, and ends the run. ``seconds``: of each. ``progress``: shows how many
    batches are done."""

    def __init__(self, steps: int = STEPS, progress: bool = False) -> None:
        self.steps, self.seconds = steps, list[float]()
        self._progress = progress
        self._bar: Bar | None = None
        self._started: float | None = None
        self._warm = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        batches = (self.steps + 1) * trainer.accumulate_grad_batches
        self._bar = Bar(total=batches, desc="measured steps", unit="batch", leave=False, disable=not self._progress)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.update()
        if not step_ended(trainer) or self._started is None:
            return
        now = time.perf_counter()
        if self._warm:
            self.seconds.append(now - self._started)
        self._started, self._warm = now, True
        trainer.should_stop = trainer.should_stop or len(self.seconds) >= self.steps

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.close()


def measure(parts: Parts, folder: Path, begun: Callable[[str], object] = lambda _: None) -> Time:
    """Trains ``parts`` for a few steps in ``folder`` and evaluates a share of the held-out items. The weights are of no
    use afterwards. ``begun`` is told what is measured next."""
    cfg = parts.cfg
    if parts.start is not None:
        begun("evaluating a part of what is held out, by the model that the run starts from")
    before = _evaluation(parts, folder) if parts.start is not None else 0.0
    parts.start = None
    kept = [each for each in parts.callbacks if not isinstance(each, Checkpoint | ProgressBar | RandomState)]
    clock = MeasuredSteps(progress=cfg.trainer.progress)
    trainer = build(replace(parts, cfg=_quiet(cfg, 0), callbacks=[*kept, clock]), folder)
    begun(f"training {clock.steps + 1} steps, of which the last {clock.steps} are measured")
    trainer.fit(parts.stage, datamodule=parts.data, weights_only=True)
    steps = _steps(parts)
    step = statistics.median(clock.seconds) if clock.seconds else math.nan
    if cfg.evaluation.enabled:
        begun("evaluating the same by what the steps made")
    after = _evaluation(parts, folder) if cfg.evaluation.enabled else 0.0
    begun("validating a few batches")
    return Time(step, steps, _validations(cfg, parts, trainer, steps), before, after)


def _quiet(cfg: DictConfig, validated: int) -> DictConfig:
    """Without bar and curves, and with so many batches of each validation."""
    trainer = {"progress": False, "limit_val_batches": validated, "val_check_interval": None}
    quiet = OmegaConf.merge(cfg, {"logger": None, "trainer": trainer})
    assert isinstance(quiet, DictConfig)
    return quiet


def _steps(parts: Parts) -> int:
    own: int | None = parts.cfg.trainer.max_steps
    if not parts.stage.automatic_optimization:
        return own or 0
    return parts.stage.total_steps()


def _validations(cfg: DictConfig, parts: Parts, trainer: L.Trainer, steps: int) -> float:
    """Seconds of all validations: one batch of each source is timed."""
    loaders = parts.data.val_dataloader()
    if cfg.trainer.limit_val_batches == 0 or not loaders:
        return 0.0
    limit = cfg.trainer.limit_val_batches
    number = sum(_limited(len(loader), limit) for loader in loaders)
    timer = _Batches()
    checker = build(replace(parts, cfg=_quiet(cfg, 2), callbacks=[timer]), Path(trainer.default_root_dir))
    checker.validate(parts.stage, datamodule=parts.data, verbose=False)
    return statistics.median(timer.seconds) * number * _times(cfg, trainer, steps) if timer.seconds else 0.0


def _limited(batches: int, limit: int | float | None) -> int:
    if limit is None:
        return batches
    counted = isinstance(limit, int) or limit > 1  # as Lightning tells a number from a share
    return min(batches, int(limit)) if counted else max(1, int(batches * limit))


def _times(cfg: DictConfig, trainer: L.Trainer, steps: int) -> int:
    """How often a run of so many steps is validated: the last time at its end."""
    every = cfg.trainer.val_check_interval
    an_epoch = max(1, math.ceil(float(trainer.num_training_batches) / trainer.accumulate_grad_batches))
    apart = an_epoch if not every else int(every) if isinstance(every, int) or every > 1 else an_epoch * every
    return max(1, math.ceil(steps / apart))


class _Batches(L.Callback):
    """Seconds of every validation batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._started = time.perf_counter()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.seconds.append(time.perf_counter() - self._started)


def _evaluation(parts: Parts, folder: Path) -> float:
    """Seconds of one evaluation on all held-out sets: of each so many items are taken as are answered at once."""
    cfg, stage = parts.cfg, parts.stage
    model = parts.start
    if model is None:
        model = LoadedModel(stage.exported(), parts.tokenizer)
    model.model.to(device_of(cfg)).eval()
    few, total = cfg.evaluation.batch_size, 0.0
    evaluator = evaluator_of(cfg, folder, stage)
    for heldout in parts.data.heldout():
        if not heldout.items or not can_evaluate(model.model, heldout):
            continue
        wanted = min(len(heldout.items), cfg.evaluation.max_items or len(heldout.items))
        taken = min(wanted, few)
        started = time.perf_counter()
        evaluator.evaluate(model, heldout._replace(items=heldout.items[:taken]), f"{heldout.name} plan")
        total += (time.perf_counter() - started) * wanted / max(1, taken)
    return total
