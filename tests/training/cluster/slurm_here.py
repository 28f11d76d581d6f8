"""A Slurm in a folder, of Debian's slurmctld, slurmd and munged: no systemd, cgroups or accounting.

Its nodes are all this machine: a slurmd each, with a port of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_llm.runtime.parent import end_with_the_thread

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SETTINGS = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be none here; None: it can be started."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "takes root"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def slurm(folder: Path, cpus: int = 2, count: int = 1) -> Iterator[dict[str, str]]:
    """Runs it, and gives the environment of commands that use it. ``count``: its nodes; the first one has the machine's
    name, by which the others find it. ``cpus``: of each."""
    host = socket.gethostname().split(".")[0]
    names = [host, *(f"{host}{number}" for number in range(2, count + 1))]
    for name in ("munge", "state"):
        (folder / name).mkdir(parents=True)
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o400)
    port, *ports = _free_ports(1 + count)
    nodes = "\n".join(
        f"NodeName={name} NodeAddr=127.0.0.1 Port={own} CPUs={cpus} RealMemory=2000 State=UNKNOWN"
        for name, own in zip(names, ports, strict=True)
    )
    settings = SETTINGS.format(host=host, folder=folder, port=port, nodes=nodes)
    (folder / "slurm.conf").write_text(settings)
    environment = {
        **os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    }  # fmt: skip
    munge = [f"--{name}={folder}/munge/{file}" for name, file in (
        ("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"),
    )]  # fmt: skip
    daemons = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf")],
        *(["slurmd", "-D", "-c", "-N", name, "-f", str(folder / "slurm.conf")] for name in names),
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in daemons:
            with (folder / f"{daemon[0]}-{len(running)}.out").open("wb") as out:
                running.append(subprocess.Popen(  # the tests' end is theirs, however it comes
                    daemon, env=environment, stdout=out, stderr=subprocess.STDOUT, preexec_fn=end_with_the_thread,
                ))  # fmt: skip
            time.sleep(1)
        end = time.monotonic() + 60
        while _states(environment).split() != ["idle"]:
            if time.monotonic() > end or any(one.poll() is not None for one in running):
                told = [file.read_text(errors="replace")[-1500:] for file in folder.glob("*.out")]
                raise RuntimeError("\n".join(["Slurm does not start", _states(environment), *told]))
            time.sleep(0.5)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, timeout=60, check=False)
        for one in reversed(running):
            one.terminate()
            try:
                one.wait(timeout=20)
            except subprocess.TimeoutExpired:
                one.kill()


def _states(environment: dict[str, str]) -> str:
    line = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout
