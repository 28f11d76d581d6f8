"""Work in processes beside this one, which end with it, however it ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import clean_abandoned
from lit_llm.runtime.parent import end_with, in_main_thread

Task = TypeVar("Task")
Result = TypeVar("Result")


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], processes: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in the order in which they are done.

    Args:
        work: is called in the processes.
        tasks: each is taken when a process is free for it.
        processes: 1: no other process, the work is done here.

    Raises:
        UserError: a process was ended from outside, as for too much memory; and what ``work`` raises.
    """
    if processes <= 1:
        yield from ((task, work(task)) for task in tasks)
        return
    queue, running = iter(tasks), dict[Connection, tuple[Any, Task]]()
    # A copy of this process has all that the work needs; elsewhere than on Linux threads of libraries forbid it.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    everyone: list[Any] = []
    by_thread = not in_main_thread()
    # Said outright, since the library warns at every fork of a process that has used its threads; workers have none.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    gc.freeze()  # objects that are there stay in memory that all processes share
    try:
        idle = []
        for _ in range(processes):  # all of them before the first task, which may need threads here
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(work, there, os.getpid(), by_thread), daemon=True)
            process.start()
            there.close()
            everyone.append(process)
            idle.append((here, process))
        for here, process in idle:
            if (task := next(queue, None)) is not None:
                here.send(task)
                running[here] = process, task
        while running:
            for here in wait(list(running)):
                assert isinstance(here, Connection)
                process, task = running.pop(here)
                yield task, _received(here, process)
                if (following := next(queue, None)) is None:
                    here.close()
                    continue
                here.send(following)
                running[here] = process, following
    finally:
        gc.unfreeze()
        for process in everyone:
            process.kill()
        for process in everyone:
            process.join()


@contextmanager
def nothing_unfinished(folder: Path, within: str) -> Iterator[None]:
    """Where what is done in the processes is broken off, nothing that they had begun to write stays in the folders
    ``within`` this one (a glob, or "." for itself). It is for the outside of ``in_processes``, which has ended them."""
    try:
        yield
    except BaseException:
        for place in [folder] if within == "." else folder.glob(within):
            clean_abandoned(place)
        raise


def _received(here: Connection, process: Any) -> Any:
    try:
        kind, told = here.recv()
    except (EOFError, ConnectionError):
        process.join()
        what = "as for too much memory" if process.exitcode == -signal.SIGKILL else "see above"
        raise UserError(
            f"a process that prepared data was ended from outside (code {process.exitcode}, {what}): fewer take less "
            "memory, data.prepare_workers=1; what is done is kept"
        ) from None
    if kind == "error":
        raise UserError(told)
    if kind == "failed":
        raise RuntimeError(f"in a process that prepares data:\n{told}")
    return told


def _serve(work: Callable[[Any], Any], there: Connection, parent: int, by_thread: bool) -> None:
    end_with(parent, by_thread)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a processor: none needs threads of its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            task = there.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: tuple[str, Any] = "done", work(task)
        except UserError as error:  # as text: not every error can be sent
            answer = "error", str(error)
        except Exception:
            answer = "failed", traceback.format_exc()
        try:
            there.send(answer)
        except ConnectionError:
            return
