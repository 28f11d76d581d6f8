"""Runs in Weights & Biases and in MLflow: one each, gone on with by a resumed run, with its configuration.

What is logged of the configuration is the run's ``config.yaml``, in which values of the environment stand as
``${oc.env:NAME}``; at the end come what tells the run apart and its held-out scores (``finalize.log_final``).
"""

from __future__ import annotations

import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from omegaconf import OmegaConf

from lit_llm.config import yaml_files
from lit_llm.config.logger_extras import needs
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.distributed import is_first_process

MODES = ("online", "offline", "disabled")
WANDB_ID, MLFLOW_ID = "wandb_run_id", "mlflow_run_id"  # files of a run's folder


class MLflowRun(MLFlowLogger):
    """MLflow never changes a parameter: of what is told again, what it does not know yet is logged."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        if not is_first_process():
            return
        known = self.experiment.get_run(self.run_id).data.params
        given = flat(vars(params) if isinstance(params, Namespace) else params)
        super().log_hyperparams({key: value for key, value in given.items() if key not in known})


def wandb_run(folder: Path, project: str, entity: str | None, group: str | None, mode: str) -> WandbLogger:
    """Raises UserError where wandb is missing, and for a mode that it does not have."""
    needs("wandb")
    if mode not in MODES:
        raise UserError(f"logger.mode={mode}: must be one of {', '.join(MODES)}")
    import wandb

    if wandb.run is not None:
        wandb.finish()  # an earlier job of this sweep: Lightning would go on with its run
    known = folder / WANDB_ID
    if not known.is_file() and is_first_process():
        write_text(known, uuid.uuid4().hex[:16])
    run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else None  # others than the first make none
    return WandbLogger(
        name=name_of(folder),
        save_dir=folder,
        id=run_id,
        project=project,
        entity=entity,
        group=group,
        mode=mode,
        config=configuration(folder),
        settings=wandb.Settings(console="off", silent=True),
    )


def mlflow_run(folder: Path, experiment: str, tracking_uri: str) -> MLflowRun:
    """Raises UserError where MLflow, or what it keeps a local database with, is missing."""
    needs("mlflow", tracking_uri)
    known = folder / MLFLOW_ID
    run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else None
    logger = MLflowRun(experiment, name_of(folder), tracking_uri, run_id=run_id)
    if is_first_process():
        logger.log_hyperparams(configuration(folder))
        write_text(known, str(logger.run_id))
    return logger


def name_of(folder: Path) -> str:
    """What tells runs apart at a glance: the end of the folder's path, a stage and a time, or a sweep and a number."""
    return "/".join(folder.resolve().parts[-2:])


def configuration(folder: Path) -> dict[str, Any]:
    """As the run keeps it; empty where it keeps none."""
    kept = folder / "config.yaml"
    if not kept.is_file():
        return {}
    # Not resolved: that would put the environment's values in.
    found: Any = OmegaConf.to_container(yaml_files.load(kept, dict), resolve=False)
    return {str(key): value for key, value in found.items()}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Keys as on the command line: ``optimizer.lr``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{key}.") if inside else {f"{before}{key}": value}
    return found
