"""Several devices: one process each, started by torchrun around the configuration that this process has resolved.

Lightning's own launcher would start the Hydra command again in every process, with run folders, sweeps and optimizing
samplers of their own. Here the processes read one configuration file and share one run folder. Of several nodes each
starts its own processes; those of the first one make the run's folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.checkpointing.signals import REQUEUE, SOON, wait_for_a_step
from lit_llm.config import schema
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.distributed import agreed, is_first_process, one_process_at
from lit_llm.runtime.parent import PARENT
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.run_lock import InUse, RunLock
from lit_llm.runtime.started_by import meeting_place, started
from lit_llm.training import outcome

log = logging.getLogger("lit_llm")

FOLDER = ".launch"
ALONE = f"{FOLDER}-command"  # its lock: of the command that starts them
RESULT = "result.json"
PROCESS = "process-"  # files with the numbers of this node's processes
MEETS = 86_400  # seconds that a node waits for the first one, which may be reading a corpus of any size
STOP = (signal.SIGTERM, signal.SIGINT)


def launch(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run ``cfg`` on all its devices and return the metrics. A rank that dies is an error here, not a hang.

    Raises UserError with the run's own message, SystemExit(143) when it was stopped by SIGTERM, (130) by SIGINT.
    """
    node = _node(cfg)
    with _alone(folder) if node == 0 else nullcontext():
        return _launched(cfg, folder, node)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder while its processes start, which takes long: until then none of them holds it itself."""
    lock = RunLock(folder / ALONE)
    try:
        lock.__enter__()
    except InUse as error:
        raise InUse(folder, error.holder) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _launched(cfg: DictConfig, folder: Path, node: int) -> dict[str, Any]:
    place = folder / (FOLDER if node == 0 else f"{FOLDER}-{node}")
    if node == 0:
        _prepare(cfg, folder)  # first: refused where another process is at work, whose files stay
    shutil.rmtree(place, ignore_errors=True)
    schema.save(cfg, place / "config.yaml")
    processes = devices.count(cfg.trainer)
    code, stopped = _wait(_start(_torchrun(cfg, folder, place), processes), place, processes)
    try:
        metrics = outcome.taken(place / RESULT)
    except SystemExit as stop:
        raise SystemExit(stop.code if stopped is None or stop.code in REQUEUE else 128 + stopped) from None
    if metrics is not None:
        return metrics
    if stopped is not None:  # before its first step
        raise SystemExit(128 + stopped)
    raise UserError(
        f"{folder}: its processes ended with status {code}; the reason is printed above, and where none is the system "
        f"killed one, as it does when memory runs out: lower data.micro_batch_size; {RunFolder(folder).kept()}"
    )


def _node(cfg: DictConfig) -> int:
    """This node's number. Raises UserError where several are asked for and none was told its own."""
    if cfg.trainer.num_nodes == 1:
        return 0
    try:
        return meeting_place()[0]
    except KeyError as missing:
        raise UserError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: every node needs NODE_RANK, MASTER_ADDR and MASTER_PORT to be "
            f"set ({missing.args[0]} is not), or srun, which tells them"
        ) from None


def _prepare(cfg: DictConfig, folder: Path) -> None:
    """What is done once, before there are several processes: they find it in the run folder."""
    from lit_llm.training.build import learned_tokens, load_run_tokenizer
    from lit_llm.training.plan.micro_batch import settled
    from lit_llm.training.train import prepare

    with one_process_at(folder):
        prepare(cfg, RunFolder(folder))  # first: the folder of another run is refused before anything is put into it
        if cfg.init_from is None or isinstance(cfg.stage.get("new_tokens"), str):
            learned_tokens(cfg, load_run_tokenizer(cfg, folder / "tokenizer"), folder)
        settled(cfg, folder)  # the processes read what was found


def prepare_once(cfg: DictConfig, folder: Path) -> None:
    """In processes that torchrun or srun started: the first one does what is done once, while the others wait."""
    path, start = folder / FOLDER / "prepared.json", started()
    names = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    this = {name: os.environ.get(name) for name in names}  # of an earlier start another one may lie there
    with suppress(KeyError):  # a step of srun's has a name of its own; torchrun's are the same at each start
        this["start"] = agreed(uuid.uuid4().hex, f"prepare {folder}")
    if start.rank == 0:
        done = False
        try:
            _prepare(cfg, folder)
            done = True
        finally:
            write_json(path, {"start": this, "done": done})
        return
    while (found := _read(path)).get("start") != this:
        time.sleep(0.1)
    if not found["done"]:
        raise SystemExit(2)  # the first process has told why


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _torchrun(cfg: DictConfig, folder: Path, place: Path) -> list[str]:
    """The command of this node."""
    words = [sys.executable, "-m", "lit_llm.training.torchrun", f"--nproc-per-node={devices.count(cfg.trainer)}"]
    words.append(f"--signals-to-handle={signal.SIGHUP.name}")  # the others are the processes' own
    if cfg.trainer.num_nodes == 1:
        words += ["--standalone", "--local-addr=127.0.0.1"]
    else:
        rank, address, port = meeting_place()
        words += [f"--nnodes={cfg.trainer.num_nodes}", f"--node-rank={rank}", f"--rdzv-conf=timeout={MEETS}"]
        words += [f"--master-addr={address}", f"--master-port={port}"]
    return [*words, "-m", "lit_llm.training.rank", str(folder), str(place)]


def _start(words: list[str], processes: int) -> subprocess.Popen[bytes]:
    """torchrun, which ends with this process, deaf to what stops a run: a scheduler or a terminal sends that to every
    process of a job. It would die of it, or kill after half a minute what is still saving. Its processes hear it."""
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (*STOP, *SOON)}
    try:
        return subprocess.Popen(words, env=_environment(processes))
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _environment(processes: int) -> dict[str, str]:
    """Of torchrun, which ends with this process; of itself it would give each of its processes one thread."""
    return {"OMP_NUM_THREADS": str(devices.threads(processes)), **os.environ, PARENT: str(os.getpid())}


def _wait(process: subprocess.Popen[bytes], place: Path, count: int) -> tuple[int, int | None]:
    """Wait, passing signals on to the ``count`` processes: they save and leave by themselves. Returns torchrun's exit
    status, and which of SIGTERM and SIGINT came.

    What was sent to this process may have been sent to them too, and a second one of a kind makes them leave at once:
    so the other of the two is passed on.
    """
    stopped: int | None = None

    def forward(signum: int, frame: Any) -> None:  # noqa: ARG001
        nonlocal stopped
        files = list(place.glob(f"{PROCESS}*"))
        if signum in STOP:
            stopped = signum
            if len(files) < count:  # they are starting, and have nothing to save
                process.send_signal(signal.SIGHUP)
                return
            signum = signal.SIGINT if signum == signal.SIGTERM else signal.SIGTERM
        for file in files:
            with suppress(OSError, ValueError):  # it has ended, or is about to write its number
                os.kill(int(file.read_text()), signum)

    before = {signum: signal.signal(signum, forward) for signum in (*STOP, *SOON)}
    try:
        return process.wait(), stopped
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if process.poll() is None:
            process.kill()


def worker(folder: Path, place: Path) -> None:
    """What every process of the run does: read the configuration, run; a node's first one writes the result."""
    from lit_llm.config.environment import hide
    from lit_llm.training.train import run

    wait_for_a_step()
    for signum in STOP:  # torchrun is deaf to them, and so is what it starts
        signal.signal(signum, signal.SIG_DFL)
    local = os.environ.get("LOCAL_RANK", "0")
    (place / f"{PROCESS}{local}").write_text(str(os.getpid()))
    level = logging.INFO if is_first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    cfg = schema.load(place / "config.yaml")
    outcome.written(place / RESULT, lambda: run(cfg, folder), hide(cfg), writes=local == "0")
