"""Several devices: one process each, started by torchrun around the configuration that this process has resolved.

Lightning's own launcher would start the Hydra command again in every process, with run folders, sweeps and optimizing
samplers of their own. Here the processes read one configuration file and share one run folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config import schema
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.distributed import is_first_process, one_process_at
from lit_llm.runtime.run_folder import RunFolder

log = logging.getLogger("lit_llm")

FOLDER = ".launch"


def launch(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run ``cfg`` on all its devices and return the metrics. A rank that dies is an error here, not a hang.

    Raises UserError with the run's own message, SystemExit(143) when it was stopped by SIGTERM.
    """
    place = folder / FOLDER
    if os.environ.get("NODE_RANK", "0") == "0":
        _prepare(cfg, folder)  # first: refused where another process is at work, whose files stay
    shutil.rmtree(place, ignore_errors=True)
    schema.save(cfg, place / "config.yaml")
    code = _wait(subprocess.Popen(_torchrun(cfg, folder), env=_environment()))
    result = json.loads((place / "result.json").read_text()) if (place / "result.json").is_file() else {}
    if "metrics" in result:
        return dict(result["metrics"])
    if "user_error" in result:
        raise UserError(result["user_error"])
    if "exit" in result:
        raise SystemExit(result["exit"])
    raise UserError(
        f"{folder}: its processes ended with status {code}; the reason is printed above, and where none is the system "
        f"killed one, as it does when memory runs out: lower data.micro_batch_size; {RunFolder(folder).kept()}"
    )


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


def _torchrun(cfg: DictConfig, folder: Path) -> list[str]:
    """The command of this node. Several nodes each run the same, with NODE_RANK, MASTER_ADDR, MASTER_PORT set."""
    words = [sys.executable, "-m", "lit_llm.training.torchrun", f"--nproc-per-node={devices.count(cfg.trainer)}"]
    if cfg.trainer.num_nodes == 1:
        words += ["--standalone", "--local-addr=127.0.0.1"]
    else:
        names = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise UserError(
                f"trainer.num_nodes={cfg.trainer.num_nodes}: every node needs {', '.join(missing)} to be set"
            )
        rank, address, port = (os.environ[name] for name in names)
        words += [f"--nnodes={cfg.trainer.num_nodes}", f"--node-rank={rank}"]
        words += [f"--master-addr={address}", f"--master-port={port}"]
    return [*words, "-m", "lit_llm.training.launch", str(folder)]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait, passing SIGTERM and SIGINT on: the processes save and leave by themselves."""

    def forward(signum: int, frame: Any) -> None:  # noqa: ARG001
        process.send_signal(signal.SIGTERM)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if process.poll() is None:
            process.kill()


def worker(folder: Path) -> None:
    """What every process of the run does: read the configuration, run, and the first one writes the result."""
    from lit_llm.config.environment import hide
    from lit_llm.runtime.atomic_files import write_json
    from lit_llm.training.train import run

    level = logging.INFO if is_first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    result: dict[str, Any] = {}
    cfg = schema.load(folder / FOLDER / "config.yaml")
    shown = hide(cfg)
    try:
        result = {"metrics": run(cfg, folder)}
    except UserError as error:
        result = {"user_error": shown(str(error))}
        raise SystemExit(2) from None
    except SystemExit as stop:
        result = {"exit": stop.code}
        raise
    finally:
        if result and (is_first_process() or "user_error" in result):
            write_json(folder / FOLDER / "result.json", result)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
