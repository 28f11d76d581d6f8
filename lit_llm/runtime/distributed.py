"""What the processes of one run know of each other, and what they tell each other."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lit_llm.errors import UserError
from lit_llm.runtime.run_lock import RunLock

T = TypeVar("T")
# What gloo, NCCL and the store of the process group say when another process is no more.
_LOST = re.compile(
    r"connection (was )?(closed|reset|lost|refused)|broken pipe|remote process exited|socket closed"
    r"|timed out waiting \d+ms for (recv|send)|collective operation timeout|failed to recv, got 0 bytes",
    re.IGNORECASE,
)
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


@contextmanager
def lost_processes_told(kept: Callable[[], str]) -> Iterator[None]:
    """Within, an error of talking to a process that is no more raises a UserError; ``kept``: what the run has, and how
    it goes on."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not inside_worker() or not is_of_lost_process(error):
            raise
        raise UserError(
            f"process {os.environ.get('RANK', '?')}: another process of this run is no more (killed, or out of memory, "
            f"where it says nothing itself); {kept()}"
        ) from None


def is_of_lost_process(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that another process of the run does not answer any more."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def agreed(value: str, name: str) -> str:
    """What the first process says, in all processes that torchrun started: the name of the run's folder, which would
    hold the second in which each of them came to it. Raises KeyError where torchrun keeps no store for that."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise KeyError("TORCHELASTIC_USE_AGENT_STORE")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"lit_llm/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_first_process():
        store.set(key, value)
    return str(store.get(key).decode())


def gathered(value: T, world_size: int, group: Any = None) -> list[T]:
    """The value of every process, in the order of their ranks. Every process calls this alike.

    ``value``: anything that can be pickled. ``world_size``: the number of processes; with one nothing is sent.
    ``group``: the process group that is asked; None: all.
    """
    if world_size == 1:
        return [value]
    import torch

    everyone: list[T] = [value] * world_size
    torch.distributed.all_gather_object(everyone, value, group=group)
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
