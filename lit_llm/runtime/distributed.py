"""What the processes of one run know of each other, and what they tell each other."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.run_lock import RunLock

T = TypeVar("T")
# What gloo, NCCL and the store of the process group say when another process is no more.
_LOST = re.compile(
    r"connection (was )?(closed|reset|lost|refused)|broken pipe|remote process exited|socket closed"
    r"|timed out waiting \d+ms for (recv|send)|collective operation timeout|failed to recv, got 0 bytes",
    re.IGNORECASE,
)
SAME_ERROR = 5.0
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


class LostProcess(UserError):  # noqa: N818 (it is what happened)
    """Another process of the run does not answer any more: what comes of its error, which says more."""


@contextmanager
def lost_processes_told(kept: Callable[[], str]) -> Iterator[None]:
    """Within, an error of talking to a process that is no more raises a LostProcess; ``kept``: what the run has, and
    how it goes on."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not inside_worker() or not is_of_lost_process(error):
            raise
        raise LostProcess(
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


@contextmanager
def first_alone(folder: Path, name: str) -> Iterator[Found]:
    """Within, the first process of a run does what may take any time (a corpus is tokenized, a model evaluated); the
    others, which have nothing to do there, wait at the end until it is done. Processes that look for each other, or
    meet in a collective, wait half an hour at most. Every process of the run calls this alike.

    ``folder``: where all see it, for srun, which keeps no store. Yields what the first one may write a word into that
    the others read there afterwards. Raises SystemExit(2) where the first one failed, which has told why.
    """
    found = Found()
    if not inside_worker():
        yield found
        return
    known = f"first/{name}/{folder}"
    _times[known] = _times.get(known, 0) + 1  # a process may run several stages, or one again
    told = _Told(folder, f"{known}/{_times[known]}")
    if not is_first_process():
        yield found
        while (ended := told.read()) is None:
            time.sleep(0.2)
        if ended == _FAILED:
            raise SystemExit(2)
        found.word = ended.removeprefix(_DONE)
        return
    ended = _FAILED
    try:
        yield found
        ended = _DONE + found.word
    finally:
        told.write(ended)


@dataclass
class Found:
    """What the first process has found."""

    word: str = ""


_FAILED, _DONE = "failed", "done "
_times: dict[str, int] = {}


def is_told_by_the_first(words: str, folder: Path) -> bool:
    """Whether the first process of a run ends with these words too, so that nobody else need say them; the others wait
    ``SAME_ERROR`` seconds for it to say anything. ``folder``: as of ``first_alone``."""
    told = _Told(folder, f"last words/{folder}")
    if is_first_process():
        told.write(words)
        return False
    ends = time.monotonic() + SAME_ERROR
    while (found := told.read()) is None and time.monotonic() < ends:
        time.sleep(0.1)
    return found == words


class _Told:
    """A word that the first process tells all others: by torchrun's store, or where there is none by a file."""

    def __init__(self, folder: Path, name: str) -> None:
        restarts = {key: os.environ.get(key, "0") for key in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")}
        self.key = "/".join(("lit_llm", name, os.environ["TORCHELASTIC_RUN_ID"], *restarts.values()))
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:16]
        self.file = folder / ".launch" / f"first-{digest}"
        self.store: Any = None
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            self.store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)

    def write(self, word: str) -> None:
        if self.store is not None:
            self.store.set(self.key, word)
        else:
            write_text(self.file, word)

    def read(self) -> str | None:
        """None: nothing was told yet."""
        if self.store is not None:
            return str(self.store.get(self.key).decode()) if self.store.check([self.key]) else None
        return self.file.read_text(encoding="utf-8") if self.file.is_file() else None


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
