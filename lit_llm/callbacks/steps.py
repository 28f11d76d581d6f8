"""Where a micro-batch ends an optimizer step. Lightning calls ``on_train_batch_end`` for every micro-batch."""

from __future__ import annotations

import lightning as L

from lit_llm.checkpointing.loops import run_ends, steps_done

__all__ = ["is_logging_step", "is_trial", "run_ends", "step_ended", "steps_done"]


def step_ended(trainer: L.Trainer) -> bool:
    """Whether the micro-batch that just ended was the last of its accumulation window."""
    return not trainer.fit_loop._should_accumulate()


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether the step that just ended is one of every ``log_every_n_steps``."""
    return step_ended(trainer) and trainer._logger_connector.should_update_logs


def is_trial(trainer: L.Trainer) -> bool:
    """Whether this is a run of a few batches that keeps nothing (``fast_dev_run``)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
