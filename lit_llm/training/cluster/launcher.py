"""``hydra/launcher=slurm``: Hydra's launcher that makes an array of jobs of a sweep, a job a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config.interruption import how_to_go_on
from lit_llm.config.ranges import out_of_range
from lit_llm.config.slurm_keys import SlurmConfig, absent, faults
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json
from lit_llm.training import outcome
from lit_llm.training.cluster import submission
from lit_llm.training.cluster.inside import in_job
from lit_llm.training.sweep import FAILED, RESULT

log = logging.getLogger("lit_llm")

FOLDER = ".slurm"  # in a sweep's: the jobs' scripts and outputs, and how each ended


class SlurmLauncher(Launcher):
    """Options: ``SlurmConfig``."""

    def __init__(self, **values: Any) -> None:
        plain = {key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
                 for key, value in values.items()}  # fmt: skip
        if unknown := [key for key in plain if key not in SlurmConfig.__dataclass_fields__]:
            known = ", ".join(SlurmConfig.__dataclass_fields__)
            raise UserError(f"hydra.launcher.{unknown[0]}: unknown key; there are {known}")
        try:
            typed = OmegaConf.merge(OmegaConf.structured(SlurmConfig), plain)
            self.settings = SlurmConfig(**OmegaConf.to_container(typed))  # type: ignore[arg-type]
        except OmegaConfBaseException as error:
            said = next(iter(str(error).splitlines()))
            raise UserError(f"hydra.launcher.{error.full_key}={plain.get(str(error.full_key))}: {said}") from None
        whole = asdict(self.settings)
        ranges = (line.replace("slurm.", "hydra.launcher.", 1) for line in out_of_range({"slurm": whole}))
        if lines := [*ranges, *faults("hydra.launcher.", whole), *absent("hydra.launcher.", whole)]:
            raise UserError("\n".join(lines))
        self.config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs as one array and wait for all of them."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        place = (Path(self.config.hydra.sweep.dir) / FOLDER).absolute()
        configs = [self._config(initial_job_idx + i, words) for i, words in enumerate(job_overrides)]
        results = [place / f"result-{config.hydra.job.num}.json" for config in configs]
        asked = [" ".join(filter_overrides(words)) for words in job_overrides]
        known = [submission.there(*each, self.settings) for each in zip(results, asked, strict=True)]
        jobs = self._submit(known, configs, results, asked, place)
        ended: dict[str, float] = {}
        stop: SystemExit | None = None
        for job in submission.wait(jobs, self.settings):
            try:
                ended[job.id] = self._value(job, configs[jobs.index(job)])
            except SystemExit as stopped:  # the others save and leave too
                stop = stopped
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if stop is not None:
            print(how_to_go_on(Path(configs[0].hydra.runtime.output_dir), "sweep"), file=sys.stderr, flush=True)
            raise stop
        return [_returned(config, ended[job.id]) for job, config in zip(jobs, configs, strict=True)]

    def _submit(
        self, known: Sequence[submission.Job | None], configs: Sequence[DictConfig], results: Sequence[Path],
        asked: Sequence[str], place: Path,
    ) -> list[submission.Job]:  # fmt: skip
        """The jobs: those that are there already, and for the others one array."""
        new = [number for number, job in enumerate(known) if job is None]
        functions = [
            (run_sweep_job, (configs[n], self.task_function, str(results[n]), list(sys.argv), self.settings.requeues))
            for n in new
        ]
        nodes = {self._nodes(config) for config in configs}
        if len(nodes) > 1:
            several = ",".join(map(str, sorted(nodes)))
            raise UserError(f"trainer.num_nodes={several}: the jobs of an array have the same; give one")
        name = f"lit-llm-{Path(self.config.hydra.sweep.dir).name}"
        submitted = iter(submission.submit(
            functions, [results[n] for n in new], self.settings, nodes.pop(), name, place, [asked[n] for n in new]
        ))  # fmt: skip
        jobs = [next(submitted) if job is None else job for job in known]
        for number, (job, config) in enumerate(zip(jobs, configs, strict=True)):
            which = "job" if number in new else "is there, and is waited for: job"
            log.info("#%s: %s %s: %s", config.hydra.job.num, which, job.id, asked[number])
        return jobs

    def _config(self, number: int, words: Sequence[str]) -> DictConfig:
        """The configuration of a job, with its folder as it is here: the job's own clock would name another."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
        with read_write(config), open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.sweep.dir = str(Path(self.config.hydra.sweep.dir).absolute())
        HydraConfig.instance().set_config(config)  # the name of its folder asks for its number
        folder = str(Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir))
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = folder
        HydraConfig.instance().set_config(self.config)
        return config

    @staticmethod
    def _nodes(config: DictConfig) -> int:
        """Nodes of a run's job; a pipeline's is of one."""
        if "stages" not in config:
            return int(config.trainer.num_nodes)
        for name, run in config.stages.items():
            if run.trainer.num_nodes > 1 and run.trainer.launcher != "slurm":
                raise UserError(
                    f"stages.{name}.trainer.num_nodes={run.trainer.num_nodes}: a pipeline's job is of one node; give "
                    f"stages.{name}.trainer.launcher=slurm, which makes a job of the step"
                )
        return 1

    def _value(self, job: submission.Job, config: DictConfig) -> float:
        """What the job returned; of one that is gone the leaderboard tells that. SystemExit: it was stopped."""
        if job.stopped is not None:
            raise SystemExit(128 + job.stopped)
        found = outcome.taken(job.result)
        if found is not None:
            return float(found["objective"])
        status = f"failed: {submission.ended_without_result(job)}"
        log.error("#%s: %s", config.hydra.job.num, status)
        told = {"status": status, "objective": FAILED, "overrides": list(config.hydra.overrides.task)}
        write_json(Path(config.hydra.runtime.output_dir) / RESULT, told | {"pipeline": "stages" in config})
        return FAILED


def _returned(config: DictConfig, value: float) -> JobReturn:
    whole = OmegaConf.masked_copy(config, ["hydra"])
    found = JobReturn(list(config.hydra.overrides.task), None, whole, status=JobStatus.COMPLETED)
    found.return_value = value
    return found


def run_sweep_job(config: DictConfig, task: TaskFunction, result: str, words: list[str], requeues: int) -> None:
    """What a job of a sweep does, on each of its nodes: what Hydra's own launcher does in the command's process."""
    from lit_llm.training.cluster.process import prepared

    first = prepared(words)
    place = Path(result)

    def run() -> dict[str, float]:
        context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]
        found = run_job(
            hydra_context=context, task_function=task, config=config, job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir", configure_logging=first,
        )  # fmt: skip
        return {"objective": found.return_value}

    in_job(
        lambda: outcome.written(place, run, str, writes=first, requeue=True),
        Path(config.hydra.runtime.output_dir), submission.requeues(place), requeues, whole="stages" not in config,
    )  # fmt: skip
