"""What becomes of each document of a corpus that is in shards: trained, held out, or left out, and why.

The keys of the documents decide, 16 bytes each, as they do for a corpus in memory (``reading.py``, ``holding_out.py``):
of equal texts the first stays, and the hash of a text says whether it is held out. A part that is held out has at most
``MOST_HELD_OUT`` characters; of more those with the smallest hashes are taken, and the others are trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.shards.shard import Shard

Fates = NDArray[np.uint8]
TRAIN, DUPLICATE, IN_HELDOUT, DECONTAMINATED, EARLIER_HELDOUT = 0, 1, 2, 3, 4
HELD_OUT = {"validation": 10, "test": 11}
REASONS = {
    DUPLICATE: "duplicate",
    IN_HELDOUT: "in_heldout",
    DECONTAMINATED: "decontaminated",
    EARLIER_HELDOUT: "earlier_heldout",
}
MOST_HELD_OUT = 10_000_000
"""Characters: about 2.5 million tokens, which an evaluation reads in minutes and a search for them holds in memory."""
AT_ONCE = 4_000_000  # keys that are compared at a time: 200 MB
Shares = NDArray[np.float64]


def fates_of(
    shards: Sequence[Shard], known: Collection[bytes], wanted: Mapping[str, float], *, deduplicate: bool
) -> Fates:
    """The fate of every document, one shard after the other, (D,).

    Args:
        known: keys of documents that files hold out.
        wanted: {"validation", "test": share of the documents}, of what files do not hold out.
        deduplicate: of equal documents, all but the first are left out.
    """
    bounds = bounds_of(shards)
    fates = np.zeros(bounds[-1], np.uint8)
    if deduplicate:
        fates[_repeated(shards, bounds)] = DUPLICATE
    leave_out(shards, fates, known)
    _hold_out(shards, bounds, fates, wanted)
    return fates


def leave_out(shards: Sequence[Shard], fates: Fates, known: Collection[bytes]) -> None:
    """Marks those of the documents to train on whose keys are ``known``: held out elsewhere."""
    if not known:
        return
    bounds = bounds_of(shards)
    among = np.sort(np.array([int.from_bytes(key[:8], "big") for key in known], np.uint64))
    for shard, begin, stop in zip(shards, bounds, bounds[1:], strict=False):
        first = _numbers(shard.about()["key"])
        place = np.minimum(np.searchsorted(among, first), len(among) - 1)
        here = fates[begin:stop]
        here[(among[place] == first) & (here == TRAIN)] = IN_HELDOUT


def bounds_of(shards: Sequence[Shard]) -> NDArray[np.int64]:
    """(S + 1,): the number of each shard's first document."""
    return np.concatenate([[0], np.cumsum([shard.documents for shard in shards])]).astype(np.int64)


def _numbers(keys: NDArray[Any]) -> NDArray[np.uint64]:
    """The first 8 bytes of each key as a number, (D,): what ``filters.share`` reads."""
    return np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


def _repeated(shards: Sequence[Shard], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the documents that an earlier one equals. Some of all keys are in memory at a time."""
    found = []
    rounds = max(1, -(-int(bounds[-1]) // AT_ONCE))
    for number in range(rounds):
        keys, places = [], []
        for shard, begin in zip(shards, bounds, strict=False):
            of = np.ascontiguousarray(shard.about()["key"]).view(">u8").reshape(-1, 2)
            mine = np.flatnonzero(of[:, 1] % rounds == number) if rounds > 1 else np.arange(len(of))
            keys.append(of[mine].astype(np.uint64))
            places.append(mine + begin)
        pairs, place = np.concatenate(keys), np.concatenate(places)
        order = np.lexsort((place, pairs[:, 1], pairs[:, 0]))  # equal keys side by side, the first document first
        pairs = pairs[order]
        same = (pairs[1:] == pairs[:-1]).all(axis=1)
        found.append(place[order[1:][same]])
    return np.concatenate(found)


def _hold_out(shards: Sequence[Shard], bounds: NDArray[np.int64], fates: Fates, wanted: Mapping[str, float]) -> None:
    """Marks what is held out. Copies of a text are on one side; each part gets something, if there is enough."""
    if not wanted:
        return
    below = 0.0
    least: dict[str, bool] = {}
    chosen: dict[str, float] = {}
    for name, fraction in wanted.items():
        chosen[name] = _last_share(shards, bounds, fates, below, fraction)
        below += fraction
    smallest: list[tuple[float, int]] = []  # of the documents to train on
    for shard, begin, stop in zip(shards, bounds, bounds[1:], strict=False):
        shares = _numbers(shard.about()["key"]) / 2.0**64
        at, here = shares.copy(), fates[begin:stop]
        open_ = here == TRAIN
        for name, fraction in wanted.items():
            mine = open_ & (at >= 0) & (at < fraction) & (shares <= chosen[name])
            here[mine] = HELD_OUT[name]
            at = at - fraction
        for name in wanted:
            least[name] = least.get(name, False) or bool((here == HELD_OUT[name]).any())
        rest = np.flatnonzero(here == TRAIN)
        first = rest[np.argsort(shares[rest], kind="stable")[: len(wanted) + 1]]
        smallest = sorted([*smallest, *zip(shares[first].tolist(), (first + begin).tolist(), strict=True)])
        smallest = smallest[: len(wanted) + 1]  # one of them is trained
    for name in wanted:
        if not least[name] and len(smallest) > 1:  # the fullest part, which is trained, gives its first by hash
            fates[smallest.pop(0)[1]] = HELD_OUT[name]


def _last_share(
    shards: Sequence[Shard], bounds: NDArray[np.int64], fates: Fates, below: float, fraction: float
) -> float:
    """The share up to which documents of a part fit in ``MOST_HELD_OUT`` characters; 1 where all do."""
    shares, sizes = np.zeros(0), np.zeros(0, np.int64)
    limit = 1.0
    for shard, begin, stop in zip(shards, bounds, bounds[1:], strict=False):
        about = shard.about()
        of = _numbers(about["key"]) / 2.0**64
        mine = (fates[begin:stop] == TRAIN) & (of - below >= 0) & (of - below < fraction) & (of <= limit)
        shares = np.concatenate([shares, of[mine]])
        sizes = np.concatenate([sizes, about["characters"][mine].astype(np.int64)])
        if int(sizes.sum()) > MOST_HELD_OUT:
            order = np.argsort(shares, kind="stable")
            fitting = max(1, int(np.searchsorted(np.cumsum(sizes[order]), MOST_HELD_OUT, side="right")))
            shares, sizes = shares[order[:fitting]], sizes[order[:fitting]]
            limit = float(shares[-1])
    return limit
