"""Several processes of one run, as torchrun starts them; they are forked, so that torch is not imported again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_processes(count: int, work: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """What ``work(*given)`` returned in each of ``count`` processes: anything that ``torch.save`` takes. Raises
    AssertionError with what was printed where one of them failed; the others are ended then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_worker, args=(rank, count, port, work, folder, given), daemon=True)
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        alive = list(processes)
        while alive:
            alive[0].join(0.2)
            failed = [process for process in processes if process.exitcode not in (None, 0)]
            if failed:
                break
            alive = [process for process in alive if process.exitcode is None]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    told = [path.read_text() for path in sorted(folder.glob("failed-*.txt"))]
    assert not failed, "\n".join(told) or f"a process ended with {failed[0].exitcode}"
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def _worker(rank: int, count: int, port: int, work: Callable[..., Any], folder: Path, given: tuple[Any, ...]) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    code = 1
    try:
        torch.save(work(*given), folder / f"result-{rank}.pt")
        code = 0
    except BaseException:
        (folder / f"failed-{rank}.txt").write_text(traceback.format_exc())
    os._exit(code)  # no hook of the test's own process runs in its copy
