"""Loading: the order of an epoch's rows, and a loader that goes on exactly where it stopped.

The order is a function of the seed and the epoch alone, the same for any number of workers and of processes. Each step
takes the next ``batch_size * world_size`` rows of it and every process its contiguous share; processes that compute one
model together take the same one. The state counts rows over all processes, so that a run stopped on one machine goes on
with two and still sees each row once.

Lightning saves and loads the state of any loader with ``state_dict`` and ``load_state_dict``. The loader wraps torch's
DataLoader and is none itself: Lightning rebuilds DataLoaders to inject a sampler of its own, which would restart the
shuffle, repeat rows over the processes and lose the position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lit_llm.errors import UserError
from lit_llm.runtime.counted import counted
from lit_llm.runtime.distributed import data_rank

BLANK = -1
"""Index that stands for a row without content, which fills up an epoch's last batch."""


class Rows(Protocol):
    """A map-style data set that knows how its items make a batch. ``blank()`` is optional."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def collate(self, items: Sequence[Any]) -> Any: ...


Order = Callable[[int], Any]
"""The rows of an epoch by the epoch's number: an array, or what gives stretches of one and has a length
(``shards/order.py``). Every epoch has the same number of rows."""


def sequential(num_rows: int) -> Order:
    return lambda _: np.arange(num_rows)


def shuffled(num_rows: int, seed: int) -> Order:
    return lambda epoch: permutation(num_rows, seed, 0, epoch)


def grouped(groups: Sequence[Any], seed: int) -> Order:
    """Rows of one group side by side, the groups in a shuffled order. ``groups``: each row's, anything hashable."""
    numbers: dict[Any, int] = {}
    group = np.array([numbers.setdefault(name, len(numbers)) for name in groups], dtype=np.int64)
    count = len(numbers)  # the names themselves need not be kept
    return lambda epoch: np.argsort(permutation(count, seed, 0, epoch)[group], kind="stable")


def mixed(sizes: Sequence[int], rows_per_epoch: Sequence[int], seed: int) -> Order:
    """Rows of several sources, evenly interleaved: any prefix of an epoch holds each source's share to within a row.

    Args:
        sizes: rows that each source has; the data set holds the sources one after the other.
        rows_per_epoch: rows taken of each source in every epoch. A source goes on in the next epoch where the last one
            stopped, and is shuffled anew each time that all of its rows have been seen.
    """
    offsets = np.concatenate([[0], np.cumsum(sizes)])

    def order(epoch: int) -> NDArray[np.int64]:
        rows, places = [], []
        for source, (size, quota) in enumerate(zip(sizes, rows_per_epoch, strict=True)):
            rows.append(offsets[source] + _passes(size, epoch * quota, (epoch + 1) * quota, seed, source))
            places.append((np.arange(quota) + 0.5) / max(1, quota))
        return np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")].astype(np.int64)

    return order


def _passes(size: int, start: int, stop: int, seed: int, source: int) -> NDArray[np.int64]:
    """Items ``start`` to ``stop`` of an endless row of shuffles of ``range(size)``."""
    if start == stop:
        return np.zeros(0, dtype=np.int64)
    passes = range(start // size, (stop - 1) // size + 1)
    endless = np.concatenate([permutation(size, seed, source, number) for number in passes])
    return endless[start - passes[0] * size : stop - passes[0] * size]


def permutation(size: int, seed: int, source: int, number: int) -> NDArray[np.int64]:
    """The rows of a source in the order of one pass over it, (size,)."""
    return np.random.Generator(np.random.PCG64([seed, source, number])).permutation(size).astype(np.int64)


class JoinedRows:
    """Several data sets, one after the other, as one. All items must be of one kind: the first collates."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.collate = self.parts[0].collate
        if hasattr(self.parts[0], "blank"):
            self.blank = self.parts[0].blank

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        part, row = self.place(index)
        return part[row]

    def place(self, index: int) -> tuple[Rows, int]:
        """The data set that a row is of, and its number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part, index - int(self._ends[number]) + len(part)


class ResumableLoader:
    """Batches of a data set, epoch after epoch, with the position in the checkpoint.

    Every ``iter()`` is one epoch, or after ``load_state_dict`` the rest of one. A state taken after an epoch's last
    batch goes on with the next epoch.

    Args:
        rows: the data set.
        batch_size: rows per batch and process.
        order: rows of an epoch; ``sequential(len(rows))`` if left out.
        fingerprint: what the rows were made from; a state of other data is refused with a UserError.
        num_workers: processes that prepare batches; they change nothing but speed.
        max_batches: end an epoch after so many batches (``limit_train_batches``), so that an epoch's border is known.
        accept_changed_data: go on even though the fingerprint differs, at the same count of rows.

    ``seconds_waited`` adds up how long whoever iterates has waited for batches.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        *,
        order: Order | None = None,
        fingerprint: str = "",
        num_workers: int = 0,
        max_batches: int | None = None,
        accept_changed_data: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.num_workers = rows, batch_size, num_workers
        self.order = order or sequential(len(rows))
        self.fingerprint, self.max_batches, self.accept_changed_data = fingerprint, max_batches, accept_changed_data
        self.rows_per_epoch = len(self.order(0))
        self._epoch, self._rows_seen, self._under_way = 0, 0, False
        self.seconds_waited = 0.0

    def __len__(self) -> int:
        """Batches of all rows, the same for every process, whatever the position.

        ``max_batches`` does not count: Lightning takes its limit, perhaps a fraction, of this number.
        """
        return -(-self.rows_per_epoch // (self.batch_size * data_rank()[1]))

    @property
    def _epoch_end(self) -> int:
        """Rows over all processes after which an epoch is over."""
        batches = len(self) if self.max_batches is None else self.max_batches
        return min(self.rows_per_epoch, batches * self.batch_size * data_rank()[1])

    @property
    def batches_seen(self) -> int:
        """Batches of the epoch under way that were given out, counted as this number of processes shares them."""
        return -(-self._rows_seen // (self.batch_size * data_rank()[1]))

    def __iter__(self) -> Iterator[Any]:
        if self._under_way:
            self._epoch, self._rows_seen, self._under_way = self._epoch + 1, 0, False
        step, end = self.batch_size * data_rank()[1], self._epoch_end
        starts = range(self._rows_seen, end, step)
        blanks = hasattr(self.dataset, "blank")
        order = self.order(self._epoch)
        if starts:  # what is wrong with the first rows (a damaged shard) is found before there are workers
            order[starts[0] : starts[0] + 1]
        loader: DataLoader[Any] = DataLoader(
            _WithBlanks(self.dataset),  # type: ignore[arg-type]
            batch_sampler=_Batches(order, starts, end, self.batch_size, blanks),
            collate_fn=self.dataset.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # DataLoader draws a seed at every iteration: from here, so that the training's random stream is untouched.
            generator=torch.Generator().manual_seed(self._epoch),
        )
        for start, batch in zip(starts, self._timed(loader), strict=True):
            # Before the yield: a checkpoint of this step counts it.
            self._rows_seen, self._under_way = min(start + step, end), True
            yield batch

    def _timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        source = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(source, None)
            self.seconds_waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        over = self._rows_seen >= self._epoch_end
        return {
            "epoch": self._epoch + over,
            "rows_seen": 0 if over else self._rows_seen,
            "rows_per_epoch": self.rows_per_epoch,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after the batches that ``state`` counts. Raises UserError if the data is not what it was."""
        same = (state["fingerprint"], state["rows_per_epoch"]) == (self.fingerprint, self.rows_per_epoch)
        if not same and not self.accept_changed_data:
            raise UserError(
                f"resume: the training data changed since the checkpoint (fingerprint {state['fingerprint'][:12]}, "
                f"{counted(state['rows_per_epoch'], 'row')} an epoch; now {self.fingerprint[:12]}, "
                f"{self.rows_per_epoch}): resume with the data, tokenizer, max_length and seed of that run, or set "
                "data.accept_changed_data=true"
            )
        self._epoch, self._rows_seen, self._under_way = int(state["epoch"]), int(state["rows_seen"]), False
        if self._rows_seen >= self._epoch_end:
            self._epoch, self._rows_seen = self._epoch + 1, 0


class _Batches:
    """The rows of each of this process's batches, made when they are asked for."""

    def __init__(self, order: Any, starts: range, end: int, batch_size: int, blanks: bool) -> None:
        self.order, self.starts, self.end, self.batch_size, self.blanks = order, starts, end, batch_size, blanks

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield _share(self.order[start : min(start + self.starts.step, self.end)], self.batch_size, self.blanks)


class _WithBlanks:
    """The data set, with blank rows where the index is BLANK."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows.blank() if index == BLANK else self.rows[index]  # type: ignore[attr-defined]


def _share(chunk: NDArray[np.int64], batch_size: int, blanks: bool) -> list[int]:
    """This process's part of a step's rows: ``batch_size`` of them, except at an epoch's end.

    There, blank rows fill it up (so that shapes stay the same for compiled code and no process waits for a batch that
    another has not); a data set without blank rows gives a shorter batch, and repeats a row where nothing is left.
    """
    rank, world_size = data_rank()
    share: list[int] = np.array_split(chunk, world_size)[rank].tolist()
    if blanks:
        return share + [BLANK] * (batch_size - len(share))
    return share or [int(chunk[rank % len(chunk)])]
