"""Checkpoints that are written while training goes on, from a copy of the state in the host's memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class HostCopies:
    """Copies of state in the host's memory, which stay as they are whatever becomes of the state.

    From a GPU they are made into pinned memory, which takes long to get and is kept for the next copy of the same
    shape; ``copied`` may be called again only when nobody needs the copies of before.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        self._given: list[Tensor] = []

    def copied(self, value: Any) -> Any:
        """A value of dicts, lists, tuples, tensors and what cannot change, with each tensor copied once: those that
        share memory do so in the copy. Of sharded tensors it is given what is held here
        (``shared_tensors.local``)."""
        for buffer in self._given:
            self._free.setdefault((buffer.shape, buffer.dtype), []).append(buffer)
        self._given = []
        found = self._copied(value, {})
        self._free = {}  # of what the state no longer has
        if any(buffer.is_pinned() for buffer in self._given):
            torch.cuda.current_stream().synchronize()
        return found

    def _copied(self, value: Any, seen: dict[Any, Tensor]) -> Any:
        if isinstance(value, dict):
            kind = OrderedDict if isinstance(value, OrderedDict) else dict
            copies: Any = kind((key, self._copied(each, seen)) for key, each in value.items())
            if hasattr(value, "_metadata"):  # of a module's state: the versions of its parts
                copies._metadata = value._metadata
            return copies
        if isinstance(value, list):
            return [self._copied(each, seen) for each in value]
        if type(value) is tuple:
            return tuple(self._copied(each, seen) for each in value)
        if not isinstance(value, Tensor):
            return value
        assert not hasattr(value, "to_local"), "copied as what is held here"
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in seen or not value.numel():
            seen[key] = self._copy(value.detach())
        return seen[key]

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True)
        free = self._free.get((tensor.shape, tensor.dtype))
        buffer = free.pop() if free else torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._given.append(buffer)
        return buffer.copy_(tensor, non_blocking=True)


class BackgroundWriter:
    """Writes one thing at a time in a thread of its own; a failure is raised where it is asked for.

    The thread is none of those that an interpreter leaves behind: a process that ends waits for it.
    """

    def __init__(self) -> None:
        self._copies = HostCopies()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, path: Path, prepare: Callable[[Callable[[Any], Any]], Callable[[], None]]) -> None:
        """Wait for what is being written, then write the next; raises the failure of the one before.

        ``prepare`` is called at once with a function that copies state, and returns what writes the copies.
        """
        self.wait()
        write = prepare(self._copies.copied)
        self._thread = threading.Thread(target=self._run, args=[write], name=f"write {path.name}")
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def failure(self) -> BaseException | None:
        """The error of what was written last, until it is raised."""
        return None if self.busy else self._error

    def wait(self) -> None:
        """Until what is being written is written. Raises the error that it met, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
