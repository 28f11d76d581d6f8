"""Who started this process, and how many beside it: plain ``python``, ``torchrun``, or Slurm's ``srun``.

The commands start the processes of a run themselves. Where torchrun or srun has started one for every device, they are
taken as they are; where srun has started one on every node, each starts those of its node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NAMES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # what every node is told where its command is started by hand


@dataclass(frozen=True)
class Started:
    """``tasks`` processes in all, ``tasks / nodes`` on each of ``nodes``; this one is ``rank`` of them."""

    by: Literal["python", "torchrun", "srun"] = "python"
    rank: int = 0
    local_rank: int = 0
    tasks: int = 1
    nodes: int = 1
    node: int = 0

    @property
    def here(self) -> int:
        """Processes on this node."""
        return max(1, self.tasks // self.nodes)


def started(environ: Mapping[str, str] = os.environ) -> Started:
    """As the environment tells it. Of srun a step of one task is plain python: a shell that was asked for is one."""

    def number(name: str, default: int) -> int:
        text = environ.get(name, "")
        return int(text) if text.isdigit() else default

    if "TORCHELASTIC_RUN_ID" in environ:
        tasks, here = number("WORLD_SIZE", 1), number("LOCAL_WORLD_SIZE", 1)
        by: Literal["torchrun", "srun"] = "srun" if environ["TORCHELASTIC_RUN_ID"].startswith(_ADOPTED) else "torchrun"
        ranks = number("RANK", 0), number("LOCAL_RANK", 0)
        return Started(by, *ranks, tasks, max(1, tasks // max(1, here)), number("GROUP_RANK", 0))
    # The batch script itself has SLURM_PROCID too; only a step that srun started has the number of its tasks.
    tasks = number("SLURM_STEP_NUM_TASKS", 1) if "SLURM_PROCID" in environ else 1
    if tasks == 1:
        return Started()
    ranks = number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0)
    return Started("srun", *ranks, tasks, number("SLURM_STEP_NUM_NODES", 1), number("SLURM_NODEID", 0))


def mismatch(devices: int, nodes: int, now: Started) -> str | None:
    """What is wrong where torchrun or srun has started other processes than ``devices`` on each of ``nodes``."""
    if now.by == "python" or (now.nodes, now.here) == (nodes, devices) or (now.by == "srun" and now.here == 1 and
                                                                          now.nodes == nodes):  # fmt: skip
        return None
    flag = "--nproc-per-node" if now.by == "torchrun" else "--ntasks-per-node"
    other = "--nnodes" if now.by == "torchrun" else "--nodes"
    one = ", or --ntasks-per-node=1" if now.by == "srun" and devices != 1 else ""
    if now.nodes != nodes:
        return (
            f"{now.by} started {now.tasks} processes on {_nodes(now.nodes)}, and trainer.num_nodes={nodes}; give "
            f"trainer.num_nodes={now.nodes}, or {other}={nodes}"
        )
    return (
        f"{now.by} started {now.here} processes on this node, one for each device; give trainer.devices={now.here} "
        f"(or auto), or {flag}={devices}{one}"
    )


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


# Slurm

JOB = "LIT_LLM_JOB"  # set in the processes of a job that this package submitted


def inside_job() -> bool:
    """Whether this process belongs to a job that this package submitted: it runs what it is given itself."""
    return JOB in os.environ


_ADOPTED = "slurm-"


def step_name(environ: Mapping[str, str] = os.environ) -> str:
    """What all tasks of a step of Slurm are called alike, also when their job was requeued: the job and the step."""
    array = environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]
    return f"{_ADOPTED}{job}.{environ.get('SLURM_STEP_ID', '0')}"


def meeting_place(environ: Mapping[str, str] = os.environ) -> tuple[int, str, int]:
    """(this node's rank, the first node's address, a port there): by hand or of Slurm's step. KeyError: neither."""
    if all(name in environ for name in NAMES):
        return int(environ["NODE_RANK"]), environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    if started(environ).by != "srun":
        raise KeyError(next(name for name in NAMES if name not in environ))
    job = int(environ["SLURM_JOB_ID"])
    hosts = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    # Two jobs that share a node have other numbers, and so mostly other ports.
    port = 20_000 + (job * 7 + int(environ.get("SLURM_STEP_ID", "0"))) % 20_000
    return int(environ.get("SLURM_NODEID", "0")), first_host(hosts), port


def first_host(hosts: str) -> str:
    """Of Slurm's list, as ``node[003-010,12],login1`` or ``rack[1-2]node[0-3]``."""
    one = re.match(r"(?:[^\[,]|\[[^\]]*\])+", hosts)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", one[0]) if one else hosts


def adopt(environ: Any = os.environ) -> None:
    """Where srun has started a process for each device: what torchrun would tell this one."""
    now = started(environ)
    if now.by != "srun" or now.here == 1 or "TORCHELASTIC_RUN_ID" in environ:
        return
    _, address, port = meeting_place(environ)
    environ |= {
        "TORCHELASTIC_RUN_ID": step_name(environ), "RANK": str(now.rank), "LOCAL_RANK": str(now.local_rank),
        "WORLD_SIZE": str(now.tasks), "LOCAL_WORLD_SIZE": str(now.here), "GROUP_RANK": str(now.node),
        "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }  # fmt: skip
