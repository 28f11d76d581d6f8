"""What the processes of one run know of each other, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lit_llm.runtime.run_lock import RunLock

T = TypeVar("T")


def inside_worker() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Whether this process writes the files of the run."""
    return int(os.environ.get("RANK", "0")) == 0 or not inside_worker()


@contextmanager
def one_process_at(folder: Path) -> Iterator[None]:
    """Holds the run folder in the first process; the others of the same run are its guests."""
    if not is_first_process():
        yield
        return
    with RunLock(folder):
        yield


def agreed(value: str, name: str) -> str:
    """What the first process says, in all processes that torchrun started: the name of the run's folder, which would
    hold the second in which each of them came to it. Raises KeyError where torchrun keeps no store for that."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise KeyError("TORCHELASTIC_USE_AGENT_STORE")
    import torch

    store = torch.distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"lit_llm/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first_process():
        store.set(key, value)
    return str(store.get(key).decode())


def gathered(value: T, world_size: int) -> list[T]:
    """The value of every process, in the order of their ranks. Every process calls this alike.

    ``value``: anything that can be pickled. ``world_size``: the number of processes; with one nothing is sent.
    """
    if world_size == 1:
        return [value]
    import torch

    everyone: list[T] = [value] * world_size
    torch.distributed.all_gather_object(everyone, value)
    return everyone
