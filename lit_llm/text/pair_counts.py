"""Pairs of neighbours in the distinct words of a corpus, counted anew only where a merge changes them.

All words lie behind each other in one array. Each place of it knows the place before and behind it in its word, so that
a merge writes its token to the left place of the pair and takes the right one out. What else it changes are the counts
of the pairs that begin there, at the right place, and at the place before.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Places = NDArray[np.intp]
NONE = -1  # no place, and the id at a place that was taken out
WIDTH = 32  # bits of an id: a pair is one number, and pairs are in the order of their numbers


class PairCounts:
    """How often each pair occurs, and where.

    Args:
        words: ids of each distinct word.
        frequency: how often each of them occurs.
    """

    def __init__(self, words: Sequence[Sequence[int]], frequency: Sequence[int]) -> None:
        sizes = np.fromiter(map(len, words), np.intp, len(words))
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])  # (words + 1,): where each begins, and the end
        total = int(self._bounds[-1])
        self._ids = np.fromiter(chain.from_iterable(words), np.int64, total)
        self._word = np.repeat(np.arange(len(words)), sizes)  # (places,), as the ids and the two below
        self._behind = np.arange(1, total + 1)
        self._before = np.arange(-1, total - 1)
        full = sizes > 0
        self._behind[self._bounds[1:][full] - 1] = NONE
        self._before[self._bounds[:-1][full]] = NONE
        self._frequency = np.asarray(frequency, np.int64)
        self._counts: dict[int, int] = {}
        self._where: dict[int, list[Places]] = {}  # also places where a pair was and is no more
        self._forbidden: set[int] = set()
        self._heap: list[tuple[int, int]] = []
        self._push(self._count(np.arange(total), +1))

    def most_frequent(self, least: int) -> Pair | None:
        """The pair with the highest count, the smaller ids first; None where all are rarer than ``least``."""
        while self._heap:  # entries whose count is not that of now are stale
            negative, key = self._heap[0]
            if -negative != self._counts[key] or key in self._forbidden:
                heapq.heappop(self._heap)
            else:
                return (key >> WIDTH, key & (1 << WIDTH) - 1) if -negative >= least else None
        return None

    def forbid(self, pair: Pair) -> None:
        """Never to be the most frequent."""
        self._forbidden.add(_key(pair))

    def merge(self, pair: Pair, made: int) -> None:
        """Puts the id ``made`` in place of every occurrence of the pair, from the left of each word."""
        left = self._places(pair)
        if pair[0] == pair[1]:
            left = self._every_second(left)
        right = self._behind[left]
        before, behind = self._before[left], self._behind[right]
        touched = np.unique(np.concatenate([before[before != NONE], left, right]))
        changed = self._count(touched, -1)
        self._ids[left], self._behind[left] = made, behind
        self._before[behind[behind != NONE]] = left[behind != NONE]
        self._ids[right] = self._behind[right] = NONE
        self._where.pop(_key(pair), None)  # it stands nowhere now
        self._push(self._count(touched, +1, changed))

    def words_with(self, pair: Pair) -> dict[int, list[int]]:
        """The words in which the pair stands, by their number: the ids of each."""
        found = np.unique(self._word[self._places(pair)])
        return {index: self._slots(index)[self._slots(index) != NONE].tolist() for index in found.tolist()}

    def rewrite(self, words: Mapping[int, Sequence[int]]) -> None:
        """Gives these words other ids, no more of them than they have."""
        spans = [np.arange(self._bounds[index], self._bounds[index + 1]) for index in sorted(words)]
        touched = np.concatenate([*spans, np.arange(0)])
        changed = self._count(touched, -1)
        for index, ids in words.items():
            start, count = int(self._bounds[index]), len(ids)
            self._slots(index)[:] = self._behind[start : self._bounds[index + 1]] = NONE
            self._ids[start : start + count] = ids
            self._behind[start : start + count - 1] = np.arange(start + 1, start + count)
            self._before[start + 1 : start + count] = np.arange(start, start + count - 1)
        self._push(self._count(touched, +1, changed))

    def _slots(self, index: int) -> NDArray[np.int64]:
        return self._ids[self._bounds[index] : self._bounds[index + 1]]

    def _places(self, pair: Pair) -> Places:
        """Where the pair begins, ascending."""
        known = np.unique(np.concatenate([np.arange(0), *self._where.get(_key(pair), [])]))
        behind = self._behind[known]
        found: Places = known[(self._ids[known] == pair[0]) & (behind != NONE) & (self._ids[behind] == pair[1])]
        return found

    def _every_second(self, places: Places) -> Places:
        """Of places that begin pairs of equal ids, those that a merge from the left takes: in aaaa the first and the
        third."""
        goes_on = np.concatenate([[False], self._behind[places[:-1]] == places[1:]])
        number = np.arange(len(places))
        begun = np.maximum.accumulate(np.where(goes_on, 0, number))
        found: Places = places[(number - begun) % 2 == 0]
        return found

    def _count(self, places: Places, sign: int, changed: dict[int, int] | None = None) -> dict[int, int]:
        """Counts the pairs that begin at these places, each place once, ascending: what that changes of each pair's
        count, on top of ``changed``."""
        changed = {} if changed is None else changed
        places = places[self._behind[places] != NONE]
        keys = (self._ids[places] << WIDTH) | self._ids[self._behind[places]]
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        if not len(first):
            return changed
        sums: Any = sign * np.add.reduceat(self._frequency[self._word[places]], first)
        found = keys[first].tolist()
        for key, n in zip(found, sums.tolist(), strict=True):
            changed[key] = changed.get(key, 0) + n
        if sign > 0:
            for key, (start, end) in zip(found, pairwise([*first.tolist(), len(places)]), strict=True):
                self._where.setdefault(key, []).append(places[start:end])
        return changed

    def _push(self, changed: Mapping[int, int]) -> None:
        for key, n in changed.items():
            if n:
                self._counts[key] = count = self._counts.get(key, 0) + n
                if count > 0:
                    heapq.heappush(self._heap, (-count, key))


def _key(pair: Pair) -> int:
    return pair[0] << WIDTH | pair[1]
