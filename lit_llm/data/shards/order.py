"""The order of the rows of corpora that memory need not hold, made a stretch at a time.

A pass over a corpus takes its shards in a shuffled order, and ``WINDOW`` of them at a time: the rows of a window are
shuffled among each other. Any place of any epoch is found without going through those before it. The order is a
function of the seed, the epoch and the shards alone, as in ``loading.py``, which takes stretches of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.loading import permutation

WINDOW = 8
"""Shards whose rows are shuffled among each other: some hundred thousand rows."""
Numbers = NDArray[np.int64]


class Shuffle(Protocol):
    """An endless row of shuffles of the rows of one source."""

    def stretch(self, start: int, stop: int) -> Numbers:
        """Its places ``start`` to ``stop``: rows of the source."""


class Shuffled:
    """Of a source whose rows are few enough to be shuffled at once."""

    def __init__(self, size: int, seed: int, source: int) -> None:
        self._size = size
        self._pass = lru_cache(2)(lambda number: permutation(size, seed, source, number))

    def stretch(self, start: int, stop: int) -> Numbers:
        found = [np.zeros(0, np.int64)]
        while start < stop:
            number, at = divmod(start, self._size)
            found.append(self._pass(number)[at : at + stop - start])
            start += len(found[-1])
        return np.concatenate(found)


class Windowed:
    """Of a source in shards.

    Args:
        sizes: rows of each shard.
        ahead: is told, when a window is begun, which shards it has, and which the next.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        source: int,
        ahead: Callable[[list[int], list[int]], object] | None = None,
    ) -> None:
        self._ahead = ahead
        self._sizes = np.asarray(sizes, np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._size = int(self._sizes.sum())
        self._seed = [seed, source]
        self._window = lru_cache(2)(self._rows_of)
        self._pass = lru_cache(2)(self._windows_of)

    def stretch(self, start: int, stop: int) -> Numbers:
        found = [np.zeros(0, np.int64)]
        while start < stop:
            number, at = divmod(start, self._size)
            window = int(np.searchsorted(self._pass(number)[1], at, side="right"))
            begin = int(self._pass(number)[1][window - 1]) if window else 0
            found.append(self._window(number, window)[at - begin : at - begin + stop - start])
            start += len(found[-1])
        return np.concatenate(found)

    def _windows_of(self, number: int) -> tuple[Numbers, Numbers]:
        """The shards of a pass in its order, and where its windows end."""
        shards = _generator(*self._seed, number, 0).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[shards])
        return shards, np.append(ends[WINDOW - 1 :: WINDOW], ends[-1:])  # the last window's twice, where it is full

    def _rows_of(self, number: int, window: int) -> Numbers:
        shards, following = (self._pass(number)[0][n * WINDOW : (n + 1) * WINDOW] for n in (window, window + 1))
        if self._ahead is not None:
            self._ahead(shards.tolist(), following.tolist())
        rows = np.concatenate([self._firsts[shard] + np.arange(self._sizes[shard]) for shard in shards])
        return rows[_generator(*self._seed, number, 1 + window).permutation(len(rows))]


class Interleaved:
    """Rows of several sources, evenly interleaved: ``order(epoch)[start:stop]``, in ``loading.mixed``'s sense.

    Args:
        sizes: rows that each source has; the data set holds the sources one after the other.
        rows_per_epoch: rows taken of each source in every epoch, which goes on where the last one stopped.
        shuffles: of each source.
    """

    def __init__(self, sizes: Sequence[int], rows_per_epoch: Sequence[int], shuffles: Sequence[Shuffle]) -> None:
        self.offsets = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        self.quotas, self.shuffles = [int(quota) for quota in rows_per_epoch], list(shuffles)

    def __call__(self, epoch: int) -> Any:
        return _Epoch(self, epoch)


class _Epoch:
    """The rows of an epoch, made when they are asked for."""

    def __init__(self, order: Interleaved, epoch: int) -> None:
        self._order, self._epoch = order, epoch

    def __len__(self) -> int:
        return sum(self._order.quotas)

    def __getitem__(self, places: int | slice) -> Any:
        if isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            return self._rows(start, max(start, stop))
        return self._rows(places, places + 1)[0]

    def _rows(self, start: int, stop: int) -> Numbers:
        """Places ``start`` to ``stop``: what ``loading.mixed`` has there, found among a few more of each source."""
        order, total, more = self._order, len(self), len(self._order.quotas) + 1
        firsts = [max(0, quota * start // max(1, total) - more) for quota in order.quotas]
        lasts = [min(quota, -(-quota * stop // max(1, total)) + more) for quota in order.quotas]
        places, rows = [], []
        for source, (quota, first, last) in enumerate(zip(order.quotas, firsts, lasts, strict=True)):
            begin = self._epoch * quota
            places.append((np.arange(first, last) + 0.5) / max(1, quota))
            rows.append(order.offsets[source] + order.shuffles[source].stretch(begin + first, begin + last))
        sorted_ = np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]
        before = sum(firsts)
        return sorted_[start - before : stop - before].astype(np.int64)


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([*seed]))
