"""``scripts/train.py``; every stage of a pipeline comes here too (``execute``)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lit_llm.config.command_line import command
from lit_llm.runtime import devices
from lit_llm.runtime.distributed import inside_worker, is_first_process
from lit_llm.runtime.garbage_collection import imports_uncollected
from lit_llm.runtime.started_by import inside_job
from lit_llm.training.plugins import register

if TYPE_CHECKING:  # torch and Lightning are imported only when the configuration has been found good
    pass


log = logging.getLogger("lit_llm")

LOOK = ("look=true", "look=false")


def main() -> None:
    """The command line (lit-llm-train). With look=true the data is shown and nothing trains."""
    words = sys.argv[1:]
    if LOOK[0] in words:
        from lit_llm.training.prepare import main as look

        look([word for word in words if word not in LOOK])
        return
    register()
    command("train", job, [word for word in words if word not in LOOK])


def job(cfg: DictConfig) -> float | None:
    """What Hydra calls: the run in Hydra's folder. Returns what a sweep compares."""
    from lit_llm.training.sweep import survive

    return survive(execute, cfg)


def execute(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run ``cfg`` in ``folder``: in this process, for several devices in several, or in a job of Slurm's. Returns the
    metrics."""
    if cfg.trainer.launcher == "slurm" and not inside_job():
        from lit_llm.training.cluster.stage_job import submit

        return submit(cfg, folder, execute)
    with imports_uncollected():
        import torch  # noqa: F401  it knows the GPUs; what needs it comes next

        from lit_llm.training.launch import launch, prepare_once
        from lit_llm.training.train import run

    devices.refuse(cfg.trainer)
    if is_first_process() and (line := devices.hint(cfg.trainer)) is not None:
        log.warning("%s", line)
    if devices.count(cfg.trainer) * cfg.trainer.num_nodes > 1:
        if not inside_worker():
            return launch(cfg, folder)
        prepare_once(cfg, folder)
    return run(cfg, folder)
