"""Where a micro-batch ends an optimizer step. Lightning calls ``on_train_batch_end`` for every micro-batch."""

from __future__ import annotations

import lightning as L


def step_ended(trainer: L.Trainer) -> bool:
    """Whether the micro-batch that just ended was the last of its accumulation window."""
    return not trainer.fit_loop._should_accumulate()


def steps_done(trainer: L.Trainer) -> int:
    """Optimizer steps so far; batches for a stage that makes its own updates (a rollout of PPO is one step)."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether the step that just ended is one of every ``log_every_n_steps``."""
    return step_ended(trainer) and trainer._logger_connector.should_update_logs


def is_trial(trainer: L.Trainer) -> bool:
    """Whether this is a run of a few batches that keeps nothing (``fast_dev_run``)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
