"""Texts that say nearly the same: candidates by MinHash, compared by their true Jaccard similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.quality.minhash import NONE, band_hashes, shape
from lit_llm.data.quality.units import Units, ngrams, pieces, units

WORDS = 3  # of an n-gram; characters, where a script sets no spaces. The README has what others find.
NEIGHBOURS = 8  # texts of a bucket that each is compared with, beside the bucket's first
MOST_AT_ONCE = 64  # held-out texts of a bucket that each text is compared with before those that are like one are done
COMPARED_AT_ONCE = 4_000_000  # n-grams of pairs
REMEMBERED_AT_ONCE = 50_000_000  # characters of the texts whose n-grams are in memory while pairs are compared

Numbers = NDArray[np.int64]


class Similar(NamedTuple):
    """Pairs of texts, by their numbers, that are at least as similar as the threshold."""

    pairs: NDArray[np.int64]  # (P, 2): the first is to be kept rather than the second
    similarity: NDArray[np.float64]  # (P,): Jaccard's, of their n-grams
    order: NDArray[np.int64]  # (D,): all texts, those to be kept rather than others first


def similar(texts: Sequence[str], threshold: float, *, priority: Sequence[bytes], words: int = WORDS) -> Similar:
    """All pairs of which MinHash found that they may be as similar as the threshold, and which are.

    Args:
        texts: D of them; those without a word are similar to none.
        threshold: Jaccard's similarity, above 0 to 1.
        priority: a key of each text's content, which decides between texts of one length, wherever they stand.
        words: of an n-gram.

    The memory is about 500 bytes a text while bands are sorted, and some hundred megabytes while pairs are compared.
    """
    bands, rows = shape(threshold)
    hashes, lengths = band_hashes(texts, words, bands, rows)
    order = sorted(range(len(texts)), key=lambda text: (-lengths[text], priority[text]))
    ranked = np.array(order, np.int64)  # the text of each rank
    candidates = ranked[_candidates(hashes[ranked])]
    measured = _measured(texts, candidates, words, threshold)
    found = measured >= threshold
    return Similar(candidates[found], measured[found], ranked)


def kept(of: Similar) -> list[int]:
    """For each text the one that is kept for it, which is itself for those that are kept.

    The longest of a cluster is kept: it holds what the shorter ones leave out. A text goes only for one that is kept
    and similar to it, and not for a chain of similar ones between the two.
    """
    neighbours: dict[int, list[int]] = {}
    for one, other in of.pairs.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    homes = list(range(len(of.order)))
    done = set[int]()
    for text in of.order.tolist():
        if homes[text] == text:
            done.add(text)
            for other in neighbours.get(text, ()):
                if other not in done and homes[other] == other:
                    homes[other] = text
    return homes


def connected(of: Similar) -> list[int]:
    """For each text the first of all that a chain of similar pairs leads to: the same one for all of a group."""
    homes = list(range(len(of.order)))

    def home(text: int) -> int:
        while homes[text] != text:
            homes[text] = text = homes[homes[text]]
        return text

    for one, other in of.pairs.tolist():
        first, second = sorted((home(one), home(other)))
        homes[second] = first
    return [home(text) for text in range(len(homes))]


def like_one_of(held: Sequence[str], texts: Sequence[str], threshold: float, words: int = WORDS) -> list[int]:
    """For each text the number of a held-out one that is as similar as the threshold, or -1.

    Each is compared with every held-out text of its buckets until one is similar enough: the work is in proportion to
    texts times held-out texts of a bucket, and much less where many are alike.
    """
    bands, rows = shape(threshold)
    hashes, _ = band_hashes([*held, *texts], words, bands, rows)
    known, asked = hashes[: len(held)], hashes[len(held) :]
    orders = np.argsort(known, axis=0, kind="stable")
    begins, ends = np.zeros(asked.shape, np.int64), np.zeros(asked.shape, np.int64)  # of each text's bucket, by band
    for column, order in enumerate(orders.T):
        values = known[order, column]
        begins[:, column] = np.searchsorted(values, asked[:, column], side="left")
        ends[:, column] = np.searchsorted(values, asked[:, column], side="right")
    ends[asked == NONE] = 0
    found = np.full(len(texts), -1, np.int64)
    width = NEIGHBOURS
    while True:
        text, band = np.nonzero((begins < ends) & (found < 0)[:, None])
        if not text.size:
            return [int(one) for one in found]
        number = np.minimum(ends[text, band] - begins[text, band], width)
        places = np.repeat(begins[text, band] - np.cumsum(number) + number, number) + np.arange(number.sum())
        codes = np.unique(np.repeat(text, number) * len(held) + orders[places, np.repeat(band, number)])
        pairs = np.stack([codes % len(held), len(held) + codes // len(held)], axis=1)
        alike = pairs[_measured([*held, *texts], pairs, words, threshold) >= threshold]
        found[alike[::-1, 1] - len(held)] = alike[::-1, 0]  # the first of several is written last
        begins += width
        width = min(2 * width, MOST_AT_ONCE)


def _candidates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of rows with a band in common, the earlier row first: (P, 2), each once.

    In a bucket of more than ``NEIGHBOURS`` + 1 rows each is paired with the first and with its neighbours only, so that
    the work grows with the texts and not with their square.
    """
    count = len(hashes)
    found: list[NDArray[np.int64]] = []
    for column in hashes.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        order, values = order[values != NONE], values[values != NONE]
        if not len(values):
            continue
        heads = np.concatenate([[True], values[1:] != values[:-1]])
        head = np.maximum.accumulate(np.where(heads, np.arange(len(values)), 0))
        far = np.flatnonzero(np.arange(len(values)) - head > NEIGHBOURS)
        found.append(order[head[far]] * count + order[far])
        for offset in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(values[offset:] == values[:-offset])
            if not same.size:
                break
            found.append(order[same] * count + order[same + offset])
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return np.stack([codes // count, codes % count], axis=1).astype(np.int64)


def _measured(texts: Sequence[str], pairs: NDArray[np.int64], words: int, threshold: float) -> NDArray[np.float64]:
    """Jaccard's similarity of each pair, (P,); 0 where the numbers of n-grams alone rule out the threshold."""
    measured = np.zeros(len(pairs))
    sizes = np.array([len(text) for text in texts], np.int64)
    begin = 0
    while begin < len(pairs):  # as many pairs as have texts that fit in memory; sorted, so neighbours share texts
        stop, known, held = begin, set[int](), 0
        while stop < len(pairs) and (stop == begin or held < REMEMBERED_AT_ONCE):
            new = {int(text) for text in pairs[stop]} - known
            known |= new
            held += sum(int(sizes[text]) for text in new)
            stop += 1
        runs = _sets(texts, sorted(known), words)
        measured[begin:stop] = _jaccard(runs, pairs[begin:stop], threshold)
        begin = stop
    return measured


def _sets(texts: Sequence[str], wanted: Sequence[int], words: int) -> dict[int, NDArray[np.uint64]]:
    """The n-grams of some texts, each once."""
    parts: dict[int, list[NDArray[np.uint64]]] = {}
    for numbers, portion in pieces([texts[text] for text in wanted]):
        runs: Units = ngrams(units(portion), words)
        for row, number in enumerate(numbers.tolist()):
            parts.setdefault(wanted[number], []).append(runs.hashes[runs.bounds[row] : runs.bounds[row + 1]])
    return {text: np.unique(some[0] if len(some) == 1 else np.concatenate(some)) for text, some in parts.items()}


def _jaccard(runs: dict[int, NDArray[np.uint64]], pairs: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    found = np.zeros(len(pairs))
    size = {text: len(some) for text, some in runs.items()}
    left = np.array([size[one] for one in pairs[:, 0].tolist()])
    right = np.array([size[one] for one in pairs[:, 1].tolist()])
    possible = np.flatnonzero(np.minimum(left, right) >= threshold * np.maximum(left, right))
    ends = np.cumsum(left[possible] + right[possible])
    cuts = np.searchsorted(ends, np.arange(COMPARED_AT_ONCE, int(ends[-1]) if len(ends) else 0, COMPARED_AT_ONCE))
    for some in np.split(possible, np.unique(cuts)):
        if not some.size:
            continue
        members = [runs[text] for text in pairs[some].reshape(-1).tolist()]
        owners = np.repeat(np.arange(len(some), dtype=np.uint64), left[some] + right[some])
        # An n-gram that both have stands twice under its pair's number.
        keys = np.concatenate(members) ^ owners * np.uint64(0x9E3779B97F4A7C15)
        both = _twice(keys, owners.astype(np.int64), len(some))
        found[some] = both / np.maximum(left[some] + right[some] - both, 1)
    return found


def _twice(keys: NDArray[np.uint64], owners: Numbers, count: int) -> Numbers:
    """How many keys of each owner occur twice."""
    order = np.argsort(keys)
    keys, owners = keys[order], owners[order]
    same = (keys[1:] == keys[:-1]) & (owners[1:] == owners[:-1])
    return np.bincount(owners[1:][same], minlength=count)
