"""``trainer.launcher=slurm``: one run as a job of Slurm's, waited for as if it ran here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_llm.config import schema
from lit_llm.config.resume_compatibility import refuse_another
from lit_llm.config.slurm_keys import SlurmConfig, absent
from lit_llm.errors import UserError
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.training import outcome
from lit_llm.training.cluster import submission
from lit_llm.training.cluster.inside import in_job

log = logging.getLogger("lit_llm")

Run = Callable[[DictConfig, Path], dict[str, Any]]

FOLDER = ".slurm"  # in a run's: its configuration, the job's script and output, and how it ended


def submit(cfg: DictConfig, folder: Path, run: Run) -> dict[str, Any]:
    """Run ``cfg`` in ``folder`` by ``run`` in a job, whose output is shown here. Returns the metrics.

    The job goes on when this process is killed; the same command with resume=FOLDER waits for it again, or goes on with
    what it left.
    """
    settings = SlurmConfig(**OmegaConf.to_container(cfg.trainer.slurm, resolve=True))  # type: ignore[arg-type]
    if lines := list(absent("trainer.slurm.", OmegaConf.to_container(cfg.trainer.slurm))):  # type: ignore[arg-type]
        raise UserError("\n".join(lines))
    refuse_another(cfg, RunFolder(folder))
    place = (folder / FOLDER).absolute()
    result, asked = place / "result.json", f"the configuration {schema.identity(cfg)[:12]}"
    job = submission.there(result, asked, settings)
    if job is not None:
        log.info("job %s, which an earlier command submitted, is there and is waited for; its output in %s", job.id,
                 job.output)  # fmt: skip
    else:
        schema.save(cfg, place / "config.yaml")
        function = (run_stage, (run, str(folder.absolute()), list(sys.argv), settings.requeues))
        (job,) = submission.submit(
            [function], [result], settings, cfg.trainer.num_nodes, f"lit-llm-{folder.name}", place, [asked]
        )
        log.info("job %s of %s, its output in %s", job.id, settings.cluster, job.output)
    for ended in submission.wait([job], settings, follow=True):
        if ended.stopped is not None:
            raise SystemExit(128 + ended.stopped)
        if (metrics := outcome.taken(ended.result)) is not None:
            return metrics
    raise UserError(f"{folder}: {submission.ended_without_result(job)}; {RunFolder(folder).kept()}")


def run_stage(run: Run, path: str, words: list[str], requeues: int) -> None:
    """What the job does, on each of its nodes."""
    from lit_llm.config.environment import hide
    from lit_llm.training.cluster.process import prepared

    folder = Path(path)
    place = folder / FOLDER
    first = prepared(words)
    cfg = schema.load(place / "config.yaml")
    if RunFolder(folder).state.get("identity") == schema.identity(cfg):
        cfg.resume = "auto"  # the job was queued again
    result = place / "result.json"
    in_job(
        lambda: outcome.written(result, lambda: run(cfg, folder), hide(cfg), writes=first, requeue=True),
        folder, submission.requeues(result), requeues,
    )  # fmt: skip
