"""What a job of Slurm does around the run that it was submitted for: signals before the limit, and queueing again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_llm.checkpointing.signals import REQUEUE, leave_at_once
from lit_llm.config.interruption import STOPPED
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.runtime.started_by import JOB

LOCAL_REQUEUE = 144  # the exit code at which submitit's executor for one machine starts a job again
IDLE = 3  # times that a job is queued again in a row without a checkpoint: time would run out for ever


def in_job(run: Callable[[], Any], folder: Path, state: Path, requeues: int, whole: bool = True) -> Any:
    """Calls ``run``; where a signal before the limit has stopped it, the job is queued again, at most ``requeues``
    times, and no more than ``IDLE`` times in a row without a checkpoint in ``folder``.

    ``state``: a file that counts how often, beside the job's result. On several nodes only the first one's task asks
    for it: a job is queued again once for each signal. ``whole``: the job is the run; of a pipeline's, steps may be
    jobs of their own.
    """
    if whole:
        os.environ[JOB] = "1"
    leave_at_once()  # in place of submitit's own handler, which would requeue in the middle of a step
    try:
        return run()
    except SystemExit as stop:
        if os.environ.get("SLURM_PROCID", "0") != "0":
            # In order: srun ends all tasks when one fails, and the first one has more to do.
            raise SystemExit(0 if stop.code in STOPPED else stop.code) from None
        if stop.code in REQUEUE and state.with_suffix(".json").is_file():
            return None  # it came when all was done, and the result told: nothing is left to go on with
        if stop.code not in REQUEUE or not _requeue(folder, state, requeues):
            raise
        raise SystemExit(0) from None  # Slurm ends what is left of the job


def _requeue(folder: Path, state: Path, requeues: int) -> bool:
    before: dict[str, Any] = {"requeued": 0, "written": "", "idle": 0}
    if state.is_file():
        before |= json.loads(state.read_text())
    done, written = before["requeued"], _written(folder)
    idle = before["idle"] + 1 if written == before["written"] else 0
    if done >= requeues:
        _say(f"the job was queued again {counted(done, 'time')}, as slurm.requeues allows, and is not once more")
        return False
    if idle >= IDLE:
        _say(
            f"the job was queued again {counted(done, 'time')}, and wrote no checkpoint in the last {idle} of them: it "
            "is not once more; slurm.minutes is too short for what a start or a last evaluation takes"
        )
        return False
    write_json(state, {"requeued": done + 1, "written": written, "idle": idle})
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local":
        _say(f"queued again ({done + 1} of at most {counted(requeues, 'time')})")
        raise SystemExit(LOCAL_REQUEUE)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    _say(f"queued again ({done + 1} of at most {counted(requeues, 'time')})")  # first: Slurm ends this process for it
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"it was not: scontrol requeue {job}: {error}")
        return False
    if asked.returncode:
        _say(f"it was not: scontrol requeue {job}: {asked.stderr.strip() or asked.stdout.strip()}")
        return False
    return True


def _written(folder: Path) -> str:
    """What changes when a checkpoint, or the measures of a finished run or step of a pipeline, is written. Which time
    is later is not asked: the nodes' clocks differ."""
    names = ("checkpoints/[!.]*", "metrics.json")  # what begins with a point was not finished
    found = (path for name in names for place in (name, f"*/{name}") for path in folder.glob(place))
    told = sorted(f"{path.relative_to(folder)} {path.stat().st_mtime_ns}" for path in found)
    return hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
