"""What a job of Slurm does around the run that it was submitted for: signals before the limit, and queueing again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_llm.checkpointing.signals import REQUEUE, leave_at_once
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.started_by import JOB

log = logging.getLogger("lit_llm")

LOCAL_REQUEUE = 144  # the exit code at which submitit's executor for one machine starts a job again


def in_job(run: Callable[[], Any], state: Path, requeues: int, whole: bool = True) -> Any:
    """Calls ``run``; where a signal before the limit has stopped it, the job is queued again, at most ``requeues``
    times.

    ``state``: a file that counts how often. On several nodes only the first one's task asks for it: a job is queued
    again once for each signal. ``whole``: the job is the run; of a pipeline's, steps may be jobs of their own.
    """
    if whole:
        os.environ[JOB] = "1"
    leave_at_once()  # in place of submitit's own handler, which would requeue in the middle of a step
    try:
        return run()
    except SystemExit as stop:
        if stop.code not in REQUEUE or os.environ.get("SLURM_PROCID", "0") != "0":
            raise
        if not _requeue(state, requeues):
            raise
        raise SystemExit(0) from None  # Slurm ends what is left of the job


def _requeue(state: Path, requeues: int) -> bool:
    done = int(json.loads(state.read_text())["requeued"]) if state.is_file() else 0
    if done >= requeues:
        print(f"the job was queued again {done} times, as slurm.requeues allows, and is not once more", file=sys.stderr)
        return False
    write_json(state, {"requeued": done + 1})
    print(f"queued again ({done + 1} of at most {requeues} times)", file=sys.stderr, flush=True)
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SUBMITIT_EXECUTOR") == "local":
        raise SystemExit(LOCAL_REQUEUE)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=120)
    return True
