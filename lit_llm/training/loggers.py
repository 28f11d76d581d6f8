"""Where a run's curves are written: into its own folder, so that ``tensorboard --logdir SWEEP`` compares its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lit_llm.runtime import curve_tags
from lit_llm.training.options import CSVOptions, MLflowOptions, TensorBoardOptions, WandbOptions


class Curves(TensorBoardLogger):
    """Event files in the run's folder itself, so that TensorBoard calls the run as its folder; the loss comes first."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({curve_tags.shown(name): value for name, value in metrics.items()}, step)

    def save(self) -> None:
        """Writes out what waits (in the first process; in others the writer is a dummy). Lightning writes hparams.yaml
        besides; a run has its config.yaml."""
        self.experiment.flush()


def tensorboard(
    folder: Path, *, max_queue: int = TensorBoardOptions.max_queue, flush_secs: int = TensorBoardOptions.flush_secs
) -> Curves:
    """Event files in ``folder``. A resumed run goes on in the same place, as the same TensorBoard run."""
    return Curves(
        save_dir=folder,
        name="",
        version="",
        default_hp_metric=False,
        max_queue=max_queue,
        flush_secs=flush_secs,
    )


def csv(folder: Path, *, flush_logs_every_n_steps: int = CSVOptions.flush_logs_every_n_steps) -> CSVLogger:
    """A table, ``folder/csv/metrics.csv``, for machines without TensorBoard. (The report reads TensorBoard's files.)"""
    return CSVLogger(save_dir=folder, name="", version="csv", flush_logs_every_n_steps=flush_logs_every_n_steps)


def wandb(
    folder: Path,
    *,
    project: str = WandbOptions.project,
    entity: str | None = WandbOptions.entity,
    group: str | None = WandbOptions.group,
    mode: str = WandbOptions.mode,
) -> Logger:
    """A run in Weights & Biases, with its files in ``folder/wandb``; ``mode``: offline needs no network and no account
    (``wandb sync FOLDER/wandb/offline-run-*`` sends it later)."""
    from lit_llm.training.trackers import wandb_run

    return wandb_run(folder, project, entity, group, mode)


def mlflow(
    folder: Path,
    *,
    experiment: str = MLflowOptions.experiment,
    tracking_uri: str | None = MLflowOptions.tracking_uri,
) -> Logger:
    """A run in MLflow. ``tracking_uri``: None: the variable MLFLOW_TRACKING_URI, else the file mlflow.db where the
    command is started, for all runs together."""
    from lit_llm.config.logger_extras import tracking_uri as settled
    from lit_llm.training.trackers import mlflow_run

    return mlflow_run(folder, experiment, settled(tracking_uri))
