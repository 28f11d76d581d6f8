"""Where a run's curves are written: into its own folder, so that ``tensorboard --logdir SWEEP`` compares its jobs."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def tensorboard(folder: Path, *, max_queue: int = 100, flush_secs: int = 10) -> TensorBoardLogger:
    """Event files in ``folder/tensorboard``. A resumed run goes on in the same place, as the same TensorBoard run."""
    return TensorBoardLogger(
        save_dir=folder,
        name="",
        version="tensorboard",
        default_hp_metric=False,
        max_queue=max_queue,
        flush_secs=flush_secs,
    )


def csv(folder: Path, *, flush_logs_every_n_steps: int = 100) -> CSVLogger:
    """A table, ``folder/csv/metrics.csv``, for machines without TensorBoard. (The report reads TensorBoard's files.)"""
    return CSVLogger(save_dir=folder, name="", version="csv", flush_logs_every_n_steps=flush_logs_every_n_steps)
