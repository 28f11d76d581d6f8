"""The rows of a corpus in shards: packed as those of a corpus in memory, a shard at a time, when they are read.

The trained documents of a shard lie end to end and are cut every ``capacity`` positions; its last row may be shorter. A
row's number and what is in it depend on nothing but the shards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lit_llm.data.packing import PackedRows, concatenate_and_split
from lit_llm.data.shards.fates import TRAIN, Fates, bounds_of
from lit_llm.data.shards.order import WINDOW
from lit_llm.data.shards.shard import Shard
from lit_llm.data.token_cache import TokenStore
from lit_llm.records import TokenBatch

OPEN = 2 * WINDOW
"""Shards whose plans are kept: those of the window that is read, and of the next."""


class ShardedRows:
    """Rows of many shards as one map-style data set: item i is a TokenBatch without its batch dimension, (T,) each.

    Args:
        fates: of all documents, (D,).
        capacity: T, positions a row.
        source: the number of the corpus among those that are mixed.
    """

    def __init__(self, shards: Sequence[Shard], fates: Fates, capacity: int, *, pad_id: int, source: int) -> None:
        self._shards, self._fates, self._bounds = list(shards), fates, bounds_of(shards)
        self.capacity, self._pad_id, self._source = capacity, pad_id, source
        trained = [self._trained(shard) for shard in range(len(self._shards))]
        self.num_positions = sum(trained)
        self.sizes = [-(-positions // capacity) for positions in trained]
        """Rows of each shard."""
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        self._open: OrderedDict[int, PackedRows] = OrderedDict()
        self._checked: set[int] = set()
        plan = concatenate_and_split([], capacity)
        nothing = TokenStore(np.zeros(0, np.uint32), np.zeros(1, np.int64), None)
        self._empty = PackedRows(nothing, plan, pad_id=pad_id, source=source)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # maps are opened anew in another process

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> TokenBatch:
        part, number = self.place(row)
        return part[number]

    def place(self, row: int) -> tuple[PackedRows, int]:
        """The rows of the shard that a row is of, and its number there."""
        shard = int(np.searchsorted(self._ends, row, side="right"))
        part = self._open.get(shard)
        if part is None:
            part = self._open[shard] = self._packed(shard)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return part, row - int(self._ends[shard]) + self.sizes[shard]

    def files_of(self, shards: Iterable[int]) -> list[str]:
        """The files that the rows of some shards are read from."""
        return [file for shard in shards for file in self._shards[shard].read_from]

    def check(self, shards: Iterable[int]) -> None:
        """Raises UserError for one of these shards whose files are not what was written; each is looked at once."""
        for shard in shards:
            if shard not in self._checked:
                self._shards[shard].check()
                self._checked.add(shard)

    def blank(self) -> TokenBatch:
        """A row of padding without a label."""
        return self._empty.blank()

    def collate(self, rows: Sequence[TokenBatch]) -> TokenBatch:
        """Stacks rows to a TokenBatch, (B, T) each."""
        return self._empty.collate(rows)

    def _kept(self, shard: int) -> Any:
        """The numbers of a shard's documents that are trained."""
        return np.flatnonzero(self._fates[self._bounds[shard] : self._bounds[shard + 1]] == TRAIN)

    def _trained(self, shard: int) -> int:
        """Positions of a shard's trained documents."""
        known = self._shards[shard].facts.get("trained")  # of one that was prepared elsewhere
        if known is not None:
            return int(known)
        tokens = self._shards[shard].about()["tokens"][self._kept(shard)].astype(np.int64)
        return int(np.maximum(tokens - 1, 0).sum())

    def _packed(self, shard: int) -> PackedRows:
        kept, store = self._kept(shard), self._shards[shard].store()
        plan = concatenate_and_split(np.maximum(store.lengths[kept] - 1, 0), self.capacity)
        plan = replace(plan, document=kept[plan.document].astype(np.int64))
        return PackedRows(store, plan, pad_id=self._pad_id, source=self._source)
