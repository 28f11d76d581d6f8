"""What a job of Slurm is asked for with: ``trainer.slurm`` of a run, ``hydra.launcher`` of a sweep."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_llm.runtime.started_by import inside_job

CLUSTERS = ("slurm", "local")
LAUNCHERS = ("local", "slurm")


@dataclass
class SlurmConfig:
    """A job has a task on each of trainer.num_nodes, which starts a process for each of trainer.devices."""

    cluster: str = "slurm"  # or local: processes of this machine in place of jobs, to try it out
    partition: str | None = None  # this and the next three: as sbatch takes them; null: the cluster's own
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: int = 1440  # the limit of a job's time
    signal_seconds: int = 120  # so long before the limit a run saves at its step's end, and its job is queued again
    requeues: int = 50  # so many times at most
    cpus_per_task: int | None = None  # of each node's task, which all its processes share
    gpus_per_node: int | None = None  # give as many as trainer.devices
    mem_gb: float | None = None  # of each node
    at_once: int = 64  # jobs of a sweep that run at the same time, at most
    setup: list[str] = field(default_factory=list)  # lines of shell before the run: module load cuda
    options: dict[str, Any] = field(default_factory=dict)  # more of sbatch's, by their long names: {reservation: night}
    poll_seconds: float = 10.0  # between two looks whether a job has ended


def faults(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that no job can have."""
    if values["cluster"] not in CLUSTERS:
        yield f"{prefix}cluster={values['cluster']}: must be one of {', '.join(CLUSTERS)}"
    if values["signal_seconds"] >= 60 * values["minutes"] > 0:
        yield (
            f"{prefix}signal_seconds={values['signal_seconds']}: must be less than the job's whole time, "
            f"{prefix}minutes={values['minutes']}"
        )


def absent(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A line for what this machine would need to submit a job, and has not."""
    if importlib.util.find_spec("submitit") is None:
        yield f"{prefix}cluster={values['cluster']}: submitit is missing; pip install 'lit-llm[slurm]'"
    elif values["cluster"] == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        yield f"{prefix}cluster=slurm: there is no sbatch on this machine; give local to try it out without Slurm"


def lacking(values: Mapping[str, Any]) -> Iterator[str]:
    """As ``absent``, for every run, in a run's or a pipeline's plain configuration, that is to be a job."""
    stages = values.get("stages")
    runs = {"": values} if stages is None else {
        f"stages.{name}.": run for name, run in stages.items() if name not in values["skip"]
    }  # fmt: skip
    for prefix, run in runs.items():
        if run["trainer"]["launcher"] == "slurm" and not inside_job():
            yield from absent(f"{prefix}trainer.slurm.", run["trainer"]["slurm"])
