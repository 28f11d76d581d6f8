"""Build: Lightning's Trainer from ``TrainerConfig``, in which every number of steps means optimizer steps."""

from __future__ import annotations

import logging
import math
import re
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig

from lit_llm.callbacks.progress import Progress
from lit_llm.callbacks.run_start import RunStart
from lit_llm.callbacks.throughput import TokenCount
from lit_llm.checkpointing.atomic import AtomicCheckpointIO
from lit_llm.checkpointing.random_state import RandomState
from lit_llm.config.interruption import note_begun
from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.runtime import devices, lightning_loops, processor
from lit_llm.runtime.counted import counted
from lit_llm.runtime.devices import is_sharded
from lit_llm.runtime.lightning_loops import step_ended, steps_done
from lit_llm.training.build import Parts
from lit_llm.training.search.trial import current

log = logging.getLogger("lit_llm")

DEFAULT_STEPS = 500  # of a run that is given no limit


def build(parts: Parts, folder: Path) -> L.Trainer:
    """The Trainer of a run in ``folder``. PPO drives its own updates: its accumulation and clipping are its own."""
    cfg, own = parts.cfg.trainer, not parts.stage.automatic_optimization
    if own:
        refuse_unread(cfg)
    accumulate = 1 if own else accumulation(parts.cfg)
    steps = step_limit(cfg)
    # Lightning refuses a bar that is both given and forbidden; trainer.progress=false means it is not wanted.
    callbacks = [each for each in parts.callbacks if cfg.progress or not isinstance(each, ProgressBar)]
    if cfg.progress and not any(isinstance(each, ProgressBar) for each in callbacks):
        callbacks.append(Progress())  # in place of Lightning's own, which fills a log file and has no time left
    if not any(isinstance(callback, RandomState) for callback in callbacks):
        callbacks.append(RandomState())
    if not any(isinstance(callback, TokenCount) for callback in callbacks):
        callbacks.append(TokenCount())
    callbacks.append(RunStart(note_begun))
    if (trial := current()) is not None:
        from lit_llm.training.search.pruning import Pruning

        callbacks.append(Pruning(trial))
    if own and steps is not None:
        callbacks.append(StopAfter(steps))
    if cfg.max_time is not None:
        callbacks.append(TimeLimit(cfg.max_time))
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    callbacks.append(NothingLeft(cfg, "rollout" if own else "step"))  # behind what may end the run
    trainer = L.Trainer(
        accelerator=_accelerator(cfg),
        devices=devices.for_lightning(cfg),
        num_nodes=cfg.num_nodes,
        strategy=strategy(cfg),
        precision=precision(cfg.precision, cfg.accelerator),  # type: ignore[arg-type]
        max_steps=-1 if own else optimizer_steps(parts.cfg, accumulate),
        max_epochs=-1 if own and steps is not None and cfg.max_epochs is None else cfg.max_epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=None if own else cfg.gradient_clip_val,
        limit_train_batches=_batches(cfg.limit_train_batches),
        limit_val_batches=_batches(cfg.limit_val_batches),
        log_every_n_steps=cfg.log_every_n_steps,
        detect_anomaly=cfg.detect_anomaly,
        deterministic=cfg.deterministic,
        overfit_batches=_batches(cfg.overfit_batches) or 0,
        fast_dev_run=cfg.fast_dev_run,
        profiler=cfg.profiler,
        num_sanity_val_steps=cfg.sanity_steps,
        default_root_dir=folder,
        callbacks=callbacks,
        logger=_logger(parts.cfg, folder),
        plugins=[AtomicCheckpointIO(), *_one_process(cfg)],
        enable_checkpointing=True,
        enable_progress_bar=cfg.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the loaders share out their rows themselves
        **_validation(cfg, accumulate),
    )
    return lightning_loops.install(trainer)


def _logger(cfg: DictConfig, folder: Path) -> Any:
    return construct(cfg.logger, "logger", cfg.allowed_targets)(folder=folder) if cfg.logger else False


def accumulation(cfg: DictConfig) -> int:
    """Micro-batches a step, from rows a step; rows that cannot be shared out evenly are refused."""
    rows: int | None = cfg.trainer.global_batch_size
    if rows is None:
        return 1
    micro, shares = int(cfg.data.micro_batch_size), devices.shares(cfg.trainer)
    if rows % (micro * shares):
        groups = " groups of devices" if cfg.trainer.tensor_parallel > 1 else " devices"
        raise UserError(
            f"trainer.global_batch_size={rows}: must be a multiple of data.micro_batch_size={micro} x {shares}{groups}"
        )
    return rows // (micro * shares)


def refuse_unread(trainer: DictConfig) -> None:
    """What a stage that drives its own updates would not read."""
    instead = {
        "max_tokens": (None, "max_steps counts rollouts; give that"),
        "global_batch_size": (None, "a rollout is data.micro_batch_size prompts on every device; give that"),
        "gradient_clip_val": (1.0, "this stage clips its own gradients; give stage.max_grad_norm"),
    }
    for key, (unset, what) in instead.items():
        if trainer[key] != unset:
            raise UserError(f"trainer.{key}={trainer[key]}: {what}")


def step_limit(settings: DictConfig) -> int | None:
    """``max_steps``, or ``DEFAULT_STEPS`` where nothing at all would end the run; None: another limit does."""
    if settings.max_steps is None and not any(settings[k] for k in ("max_epochs", "max_tokens", "fast_dev_run")):
        return DEFAULT_STEPS
    steps: int | None = settings.max_steps
    return steps


def optimizer_steps(cfg: DictConfig, accumulate: int) -> int:
    """``step_limit`` or what ``max_tokens`` comes to, whichever is less; -1: epochs or time end the run."""
    limits = [steps] if (steps := step_limit(cfg.trainer)) is not None else []
    if cfg.trainer.max_tokens is not None:
        length = cfg.data.get("max_length")
        if length is None:
            raise UserError(f"trainer.max_tokens={cfg.trainer.max_tokens}: this data has no max_length; give max_steps")
        a_step = accumulate * cfg.data.micro_batch_size * devices.shares(cfg.trainer) * length
        limits.append(max(1, math.ceil(cfg.trainer.max_tokens / a_step)))
    return min(limits, default=-1)


def precision(name: str, accelerator: str = "auto") -> str:
    """Lightning's precision; auto: bf16-mixed on GPUs and processors that have bf16 arithmetic, else 32-true."""
    if name != "auto":
        return name
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if processor.has_bf16() else "32-true"


def in_bf16(settings: DictConfig) -> bool:
    """Whether a run's matrices multiply in bfloat16; what it is evaluated with then does too."""
    return precision(settings.precision, settings.accelerator).startswith("bf16")


def _accelerator(cfg: DictConfig) -> str:
    if cfg.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={cfg.accelerator}: there is no GPU that torch can use; trainer=cpu")
    return str(cfg.accelerator)


def strategy(cfg: DictConfig) -> Any:
    """Lightning's strategy of a ``trainer`` group: DDP for several processes, or one that spreads the model out."""
    world = int(devices.count(cfg) * cfg.num_nodes)
    if is_sharded(cfg):
        from lit_llm.training.sharded_strategy import CheckpointedShardedStrategy

        shares, replicas = devices.shares(cfg), int(cfg.num_nodes) if cfg.shard == "hybrid" else None
        return CheckpointedShardedStrategy(shares, world // shares, cfg.shard or "full", replicas)
    return "ddp" if cfg.strategy == "auto" and world > 1 else cfg.strategy


def _one_process(trainer: DictConfig) -> list[LightningEnvironment]:
    """Of a run of one process Lightning need not ask Slurm: it would requeue the job by itself, and refuse a step of
    several tasks."""
    return [LightningEnvironment()] if devices.count(trainer) * trainer.num_nodes == 1 else []


def _batches(value: int | float | None) -> int | float | None:
    """Lightning tells a number of batches from a share by type, as the configuration does; 0.0 and 50.0 are counts."""
    return int(value) if value is not None and (value > 1 or value == 0) else value


def _validation(cfg: DictConfig, accumulate: int) -> dict[str, Any]:
    every = cfg.val_check_interval
    if every is None or every == 0:
        return {}
    if isinstance(every, int) or every > 1:  # Lightning counts micro-batches here
        return {"val_check_interval": int(every) * accumulate, "check_val_every_n_epoch": None}
    return {"val_check_interval": float(every)}


class StopAfter(L.Callback):
    """Ends a stage that drives its own updates after so many training steps (rollouts)."""

    def __init__(self, rollouts: int) -> None:
        self.rollouts, self.done = rollouts, 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        """A run that had done them all, and failed afterwards, is resumed to do no more."""
        trainer.should_stop = trainer.should_stop or self.done >= self.rollouts

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        self.done += 1
        if self.done >= self.rollouts:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = state_dict["done"]


class NothingLeft(L.Callback):
    """Says where a run goes on that has done all that it is to do, and more than that where it is given less now."""

    def __init__(self, settings: DictConfig, unit: str) -> None:
        self.settings, self.unit = settings, unit

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if not (trainer.fit_loop.done and trainer.is_global_zero):
            return
        limits = [f"trainer.{key}={self.settings[key]}" for key in ("max_steps", "max_tokens", "max_epochs", "max_time")
                  if self.settings[key] is not None]  # fmt: skip
        asked = " and ".join(limits) or f"trainer.max_steps={DEFAULT_STEPS}"
        log.warning("nothing is left to train: the run has done %s, and is given %s; give more to go on",
                    counted(steps_done(trainer), self.unit), asked)  # fmt: skip


class TimeLimit(L.Callback):
    """Ends training with the first step that ends after so much time, that of runs which were resumed counted.

    Args:
        duration: "DD:HH:MM:SS".
    """

    def __init__(self, duration: str) -> None:
        found = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", duration.strip())
        if found is None:
            raise UserError(f"trainer.max_time={duration}: must be DD:HH:MM:SS, such as 00:02:30:00")
        days, hours, minutes, seconds = map(int, found.groups())
        self.seconds = float(((24 * days + hours) * 60 + minutes) * 60 + seconds)
        self._before = 0.0
        self._started: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._started = time.monotonic()
        self._check(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if step_ended(trainer):
            self._check(trainer)

    def _check(self, trainer: L.Trainer) -> None:
        over = trainer.strategy.broadcast(self.elapsed() >= self.seconds)  # all processes end with the same step
        trainer.should_stop = trainer.should_stop or bool(over)

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["seconds"]
