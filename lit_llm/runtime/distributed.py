"""What the processes of one run know of each other, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lit_llm.runtime.run_lock import RunLock

T = TypeVar("T")
_peers = 1


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


# Who takes which rows of the data


def take_the_same_rows(peers: int) -> None:
    """From here on each so many processes, by their ranks, are one group that computes one model together (tensor
    parallelism) and takes the same rows; 1: every process takes its own."""
    global _peers
    _peers = peers


def peers() -> int:
    """Processes that take the same rows as this one, itself among them."""
    return _peers


def data_rank() -> tuple[int, int]:
    """Which share of the rows this process takes, and how many shares there are."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank() // _peers, torch.distributed.get_world_size() // _peers


def gathered_shares(value: T, world_size: int) -> list[T]:
    """As ``gathered``, of what is made from rows: once for each share of them."""
    return gathered(value, world_size)[::_peers]
