"""Handing functions to Slurm, by way of submitit, and waiting until their jobs have ended."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_llm.config.slurm_keys import SlurmConfig
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.training.outcome import asked_to_stop

log = logging.getLogger("lit_llm")

TOLD = 6  # looks at a queue that gives no answer, after which that is told
SHOWN = 6  # jobs whose numbers a line gives; a sweep may have hundreds
DONE = "done"
GONE = 3  # looks at the queue that do not find a job before it is said to be gone: a disk of a network may lag


@dataclass
class Job:
    """A job that was submitted. It has ended when ``result`` is there."""

    id: str
    result: Path
    output: Path
    handle: Any  # submitit's
    state: str = ""  # what was last said of it
    missed: int = 0
    gone: bool = field(default=False)  # it ended without a result
    stopped: int | None = None  # the signal that the waiting command has passed on to it


def submit(
    functions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], results: Sequence[Path], settings: SlurmConfig,
    nodes: int, name: str, folder: Path, asked: Sequence[str],
) -> list[Job]:  # fmt: skip
    """One job for a function with its arguments; for several one array. ``folder``: scripts and outputs of the jobs.
    ``asked``: what each runs, in words, by which :func:`there` knows it again.

    Raises UserError with sbatch's own words where it takes no such job.
    """
    if not functions:
        return []
    name = f"{name}-{uuid.uuid4().hex[:8]}"
    for number, (result, words) in enumerate(zip(results, asked, strict=True)):
        for old in (result, asked_to_stop(result), requeues(result)):
            old.unlink(missing_ok=True)
        # Before there is a job: where this process is killed before it knows the number, the name finds it.
        place = {"name": name, "array": number if len(results) > 1 else None, "folder": str(folder)}
        write_json(_submitted(result), {"job": None, **place, "cluster": settings.cluster, "asked": words})
    executor = _executor(settings, nodes, name, folder)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    told = io.StringIO()  # submitit prints what sbatch refuses by, which is told below
    try:
        with redirect_stderr(told), executor.batch():
            handles = [executor.submit(function, *arguments) for function, arguments in functions]
    except (FailedJobError, FailedSubmissionError, OSError) as error:  # it may be there: sbatch may give up
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next((line for line in said if "error:" in line), next(iter(said), type(error).__name__))
        raise UserError(f"the job was not taken: {why}") from None
    sys.stderr.write(told.getvalue())
    jobs = [
        Job(str(handle.job_id), result, Path(str(handle.paths.stdout).replace("%t", "0")), handle)
        for handle, result in zip(handles, results, strict=True)
    ]
    for job, words in zip(jobs, asked, strict=True):
        written = {"job": job.id, "output": str(job.output), "cluster": settings.cluster, "asked": words}
        write_json(_submitted(job.result), written)
    return jobs


def requeues(result: Path) -> Path:
    """The file in which a job counts how often it was queued again."""
    return result.with_suffix(".requeues")


def _submitted(result: Path) -> Path:
    return result.with_suffix(".job")


def there(result: Path, asked: str, settings: SlurmConfig) -> Job | None:
    """The job of Slurm's that an earlier command submitted for a result, and that waits or runs: it is waited for, not
    submitted twice. Raises UserError where it runs something else than ``asked``."""
    try:
        found = json.loads(_submitted(result).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if found["job"] is None and found["cluster"] == settings.cluster == "slurm":
        found |= _by_name(found, result)
    if found["job"] is None:
        return None
    job = Job(found["job"], result, Path(found["output"]), None)
    # A process of this machine in place of a job holds its run's folder; so a second one is refused there.
    if found["cluster"] != "slurm" or settings.cluster != "slurm" or job.id not in _queued([job], settings)[0]:
        return None
    if found["asked"] != asked:
        raise UserError(
            f"{result.parent.parent}: job {job.id} is at work there, with other values ({found['asked']}); wait for "
            f"it, or scancel {job.id}, or give another folder"
        )
    return job


def _by_name(found: dict[str, Any], result: Path) -> dict[str, Any]:
    """The number and the output of a job whose command was killed while it submitted it; none: it never came to that.

    Raises UserError where the queue cannot be asked: it might be submitted twice.
    """
    said, wrong = _squeue("--format=%i", f"--name={found['name']}")
    if said is None:
        raise UserError(f"{result}: whether its job was submitted cannot be asked ({wrong}); try again later")
    own = "" if found["array"] is None else f"_{found['array']}"
    job = next((line for line in said.split() if line.partition("_")[1:] == own.partition("_")[1:]), None)
    output = {"output": str(Path(found["folder"]) / f"{job}_0_log.out")}
    return {"job": job, **output}


def _squeue(*words: str) -> tuple[str | None, str]:
    """What the queue says of jobs, also of those that have ended just now; None where it cannot be asked, and why."""
    line = ["squeue", "--noheader", "--array", "--states=all", *words]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode and "Invalid job id" not in done.stderr:
        return None, " ".join(done.stderr.split())[:200] or f"squeue: exit code {done.returncode}"
    return done.stdout, ""


def _executor(settings: SlurmConfig, nodes: int, name: str, folder: Path) -> Any:
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")  # of the jobs too: the run tells its own story
    import submitit

    if settings.cluster == "local":
        local = submitit.LocalExecutor(folder)
        values = {"gpus_per_node": settings.gpus_per_node or 0, "setup": settings.setup or (), "stderr_to_stdout": True}
        local.update_parameters(timeout_min=settings.minutes, signal_delay_s=settings.signal_seconds, **values)
        return local
    asked = {
        "job_name": name, "time": settings.minutes, "signal_delay_s": settings.signal_seconds, "nodes": nodes,
        "ntasks_per_node": 1, "array_parallelism": settings.at_once, "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": settings.gpus_per_node, "partition": settings.partition, "account": settings.account,
        "qos": settings.qos, "constraint": settings.constraint, "setup": settings.setup or None,
        "mem": None if settings.mem_gb is None else f"{round(settings.mem_gb * 1024)}M",
        "stderr_to_stdout": True, "srun_args": ["--open-mode=append", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, **settings.options},
    }  # fmt: skip
    slurm = submitit.SlurmExecutor(folder)
    slurm.update_parameters(**{key: value for key, value in asked.items() if value is not None})
    return slurm


def wait(jobs: Sequence[Job], settings: SlurmConfig, follow: bool = False) -> Iterator[Job]:
    """The jobs in the order in which they end. ``follow``: what they write to their output is written here too.

    What changes is said: which jobs wait, run, are queued again and are done. SIGTERM and SIGINT are passed on: runs
    save and leave by themselves, jobs that have not begun are taken back.
    """
    left, shown = list(jobs), dict.fromkeys((job.id for job in jobs), 0)
    unanswered = 0
    with _passing_on(left, settings):
        while left:
            queued, wrong = _queued(left, settings)
            unanswered = unanswered + 1 if wrong else 0
            if unanswered == TOLD:
                log.warning("the queue cannot be asked: %s; it is asked again and again", wrong)
            _tell(jobs, {} if wrong else queued)
            for job in list(left):
                if follow:
                    shown[job.id] = _show(job.output, shown[job.id])
                job.missed = 0 if job.id in queued else job.missed + 1
                job.gone = job.missed >= GONE and not job.result.is_file()
                if job.gone or job.result.is_file():
                    left.remove(job)
                    if follow:
                        _show(job.output, shown[job.id])
                    yield job
            if left:
                time.sleep(settings.poll_seconds)


def _tell(jobs: Sequence[Job], queued: Mapping[str, str]) -> None:
    """A line of what has changed since the last look, however many jobs there are. ``queued``: as of ``_queued``."""
    changed: dict[str, list[str]] = {}
    for job in jobs:
        now = _state(job, queued.get(job.id))
        if now not in ("", job.state):
            job.state = now
            changed.setdefault(now, []).append(job.id)
    if not changed:
        return
    words = [f"{_named(ids)}: {state}" for state, ids in changed.items()]
    done = sum(job.state == DONE for job in jobs)
    log.info("%s%s", "; ".join(words), f" ({done} of {len(jobs)} done)" if len(jobs) > 1 else "")


def _state(job: Job, slurm_s: str | None) -> str:
    """In words; "": nothing to tell of."""
    if job.result.is_file():
        return DONE
    if slurm_s is None:
        return ""
    if slurm_s.startswith("RUNNING"):
        return "running again" if _requeued(job) else "running"
    if slurm_s.startswith(("PENDING", "REQUEUE", "CONFIGURING")):
        return "waiting in the queue" if (again := _requeued(job)) == 0 else f"queued again ({counted(again, 'time')})"
    return ""  # as COMPLETING: it will be one of the others


def _requeued(job: Job) -> int:
    try:
        return int(json.loads(requeues(job.result).read_text(encoding="utf-8"))["requeued"])
    except (OSError, ValueError, KeyError):
        return 0


def _named(ids: Sequence[str]) -> str:
    """Jobs that do the same, in a few words."""
    if len(ids) == 1:
        return f"job {ids[0]}"
    some = ", ".join(ids[:SHOWN])
    return f"jobs {some}{f' and {len(ids) - SHOWN} more' if len(ids) > SHOWN else ''}"


def _queued(jobs: Sequence[Job], settings: SlurmConfig) -> tuple[dict[str, str], str]:
    """Those of the jobs that wait or run, with Slurm's word for it. All of them where the queue cannot be asked, and
    why: it may come back."""
    if settings.cluster == "local":
        return {job.id: "RUNNING" for job in jobs if not job.handle.done()}, ""
    ids = ",".join(sorted({job.id.partition("_")[0] for job in jobs}))
    said, wrong = _squeue("--format=%i %T", f"--jobs={ids}")
    if said is None:
        return {job.id: "" for job in jobs}, wrong
    states = dict(line.split(None, 1) for line in said.splitlines() if " " in line)
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
    return {job: state.strip() for job, state in states.items() if not state.strip().startswith(over)}, ""


def _show(output: Path, start: int) -> int:
    """Write what a file holds from ``start`` on, and return its length."""
    try:
        with output.open("rb") as file:
            file.seek(min(start, output.stat().st_size))
            new = file.read()
    except OSError:  # it has not begun
        return start
    if new:
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
    return start + len(new)


@contextmanager
def _passing_on(left: list[Job], settings: SlurmConfig) -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:  # noqa: ARG001
        name = signal.Signals(signum).name
        log.warning("%s: the jobs save and leave; send it again to leave them to themselves", name)
        signal.signal(signum, before[signum])
        for job in left:
            job.stopped = signum
            asked_to_stop(job.result).touch()
            _stop(job, settings)

    before: dict[int, Any] = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _stop(job: Job, settings: SlurmConfig) -> None:
    if settings.cluster == "local":
        if not job.handle.done():
            os.kill(int(job.id), signal.SIGTERM)
        return
    subprocess.run(["scancel", "--state=PENDING", job.id], capture_output=True, check=False)
    subprocess.run(["scancel", "--signal=TERM", job.id], capture_output=True, check=False)


def ended_without_result(job: Job) -> str:
    """What is said of a job that is gone."""
    return (
        f"job {job.id} ended without a result, as where its time or memory ran out, or where it was cancelled; its "
        f"output: {job.output}"
    )
