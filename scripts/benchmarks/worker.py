"""The process in which one contestant runs, and the pipe to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import torch

from lit_llm.errors import UserError
from lit_llm.runtime.allocator import keep_freed_memory
from lit_llm.runtime.out_of_resources import one_line


class Worker:
    """A spawned process that builds a contestant and times its calls on request.

    Raises UserError, with the process's last line, when the contestant fails there. Leaving the context ends it.
    """

    def __init__(self, name: str, make: Callable[[], Any], tuned: bool, threads: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        # No daemon, which may not start processes, as some peers do; it ends with its pipe.
        self._process = context.Process(target=serve, args=(theirs, make, tuned, threads))
        with _uninterrupted():
            self._process.start()
        theirs.close()
        self.first_seconds: float = self._answer()

    def timed(self, calls: int) -> tuple[float, float]:
        """Units of work done in ``calls`` calls and the seconds that they took."""
        self._pipe.send(calls)
        units, seconds = self._answer()
        return units, seconds

    def described(self) -> tuple[float, dict[str, float]]:
        """Peak memory in GB (``peak_gb``), and the contestant's own numbers."""
        self._pipe.send(0)
        peak, numbers = self._answer()
        return peak, numbers

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise UserError(f"{self.name}: its process ended (status {self._process.exitcode})") from None
        if kind == "failed":
            raise UserError(f"{self.name}: {value}")
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process started in here hears of Ctrl+C when it has all of its imports, and ends without a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Any, make: Callable[[], Any], tuned: bool, threads: int | None) -> None:
    """The process's whole life: build, call once, then answer a number of calls with their time until the pipe ends."""
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if tuned:
            keep_freed_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        contestant = make()
        pipe.send(("first", _seconds_of(contestant, 1)))
        while True:
            calls = pipe.recv()
            if calls:
                pipe.send(("timed", (calls * contestant.units, _seconds_of(contestant, calls))))
            else:
                numbers = contestant.numbers() if hasattr(contestant, "numbers") else {}
                pipe.send(("described", (peak_gb(getattr(contestant, "device", None)), numbers)))
    except (EOFError, KeyboardInterrupt):  # the other side is gone, or says that it was interrupted
        return
    except BaseException as error:  # whatever it is, the other side says whose it was
        with contextlib.suppress(OSError):
            pipe.send(("failed", _last_line(error)))


def _last_line(error: BaseException) -> str:
    """A user's mistake, or what ran out, as it is; all else is a fault: its type here, the whole on stderr."""
    told = one_line(error, "take a smaller shape, or fewer rows at once")
    if told is not None:
        return str(told)
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"


def _seconds_of(contestant: Any, calls: int) -> float:
    wait = getattr(contestant, "wait", None)
    if wait is not None:
        wait()
    started = time.perf_counter()
    for _ in range(calls):
        contestant()
    if wait is not None:
        wait()
    return time.perf_counter() - started


def peak_gb(device: torch.device | None = None) -> float:
    """The most memory that this process ever had, in 1e9 bytes: on a GPU what was allocated there, else what was
    resident (on Linux since it began its own program)."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        from pathlib import Path

        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except (OSError, StopIteration):
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / 1e9 if sys.platform == "darwin" else size * 1024 / 1e9
