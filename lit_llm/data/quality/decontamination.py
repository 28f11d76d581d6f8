"""Training texts that hold held-out items, found by n-grams of 13 words (Brown et al. 2020, appendix C).

A text holds an item when it has all of its n-grams, or a given share of those that are no boilerplate; it lies in
held-out texts when that share of its own n-grams is theirs. Boilerplate (a licence's header, a template's words) is in
many training texts and in several unlike items as well: it decides nothing but whether all of an item is there. What is
in one item alone is no boilerplate, however many texts copy it. An item of fewer words is looked for as a whole,
between borders of words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.quality.units import Hashes, Units, ngrams, ngrams_of_lengths, pieces, units

COMMON = 10  # boilerplate is in more training texts,
SEVERAL = 3  # and in at least so many held-out items of which no two have the same n-grams
LEAST = 8  # words of an item, as in that appendix: a shorter one is in texts that have nothing to do with it
_BITS = 16  # of a table of what is known at all, for each n-gram: of those that are not, one in 16 passes it

Numbers = NDArray[np.int64]


class Held(NamedTuple):
    """A training text that is to be dropped, and the held-out item that it holds or lies in, by their numbers."""

    text: int
    item: int


class Found(NamedTuple):
    """N-grams of held-out items in some training texts."""

    codes: Mapping[int, Numbers]  # by length of n-gram: text * G + number of the n-gram, sorted, each once
    totals: Numbers  # (texts,): n-grams of each text


class Telling(NamedTuple):
    """What is no boilerplate of the n-grams of ``n`` words, and how many of these are enough."""

    grams: NDArray[np.bool_]  # (G,)
    enough: NDArray[np.float64]  # (I,): of an item's


class HeldoutItems:
    """The n-grams of held-out items, for a search in any number of texts.

    Args:
        items: their texts, I of them.
        n: words of an n-gram; characters, of scripts without spaces.
        share: of an item's n-grams, boilerplate left out, above which a text holds it, and of a text's n-grams above
            which it lies in held-out items. 0: one n-gram is enough.
        least: words that an item needs to be looked for.
    """

    def __init__(self, items: Sequence[str], *, n: int = 13, share: float = 0.5, least: int = LEAST) -> None:
        self.n, self.share, least = n, share, min(least, n)
        lengths = np.zeros(len(items), np.int64)
        found: dict[int, list[tuple[Hashes, Numbers]]] = {}  # by length: hashes, and of which item each is
        for numbers, portion in pieces(items):
            of = units(portion)
            np.add.at(lengths, numbers, of.counts)
            for length in range(least, n + 1):
                some = np.flatnonzero(of.counts >= n if length == n else of.counts == length)
                if some.size:
                    runs = ngrams(_only(of, some), length, short=False)
                    found.setdefault(length, []).append((runs.hashes, numbers[np.repeat(some, runs.counts)]))
        self._tables = {length: _Table(parts) for length, parts in found.items()}
        self.searched = int((lengths >= least).sum())

    def held_by(self, texts: Sequence[str]) -> list[Held]:
        """Those of ``texts`` that hold an item or lie in one, in their order, each with the first such item."""
        if not self._tables:
            return []
        found = self.found_in(texts)
        return self.decided(found, self.telling([found]))

    def found_in(self, texts: Sequence[str]) -> Found:
        """The items' n-grams in some of the training texts: the others may be in other places."""
        matched: Mapping[int, list[Numbers]] = {length: [] for length in self._tables}
        totals = np.zeros(len(texts), np.int64)  # n-grams of each text
        for numbers, portion in pieces(texts):
            for length, runs in ngrams_of_lengths(units(portion), self._tables).items():
                table = self._tables[length]
                if length == self.n:
                    np.add.at(totals, numbers, runs.counts)
                where, gram = table.matches(runs.hashes)
                if where.size:
                    owner = numbers[np.searchsorted(runs.bounds, where, side="right") - 1]
                    matched[length].append(_distinct(owner * len(table.values) + gram))
        nothing = np.zeros(0, np.int64)
        return Found({length: _distinct(np.concatenate([nothing, *some])) for length, some in matched.items()}, totals)

    @property
    def sizes(self) -> dict[int, int]:
        """G, the number of n-grams, by their length."""
        return {length: len(table.values) for length, table in self._tables.items()}

    def telling(self, everywhere: Iterable[Found]) -> Telling:
        """What tells, as found in all training texts."""
        if (table := self._tables.get(self.n)) is None:
            return Telling(np.zeros(0, bool), np.zeros(0))
        frequency = np.zeros(len(table.values), np.int64)  # in how many of the texts each n-gram is
        for found in everywhere:
            grams, counts = np.unique(found.codes[self.n] % len(frequency), return_counts=True)
            frequency[grams] += counts
        telling = (frequency <= COMMON) | (table.items_of < SEVERAL)
        return Telling(telling, np.maximum(self.share * table.grams_of(telling), 1))

    def decided(self, found: Found, telling: Telling) -> list[Held]:
        """Those of the texts of ``found`` that hold an item or lie in one."""
        first: dict[int, int] = {}
        for length, table in self._tables.items():
            codes = found.codes[length]
            text, gram = codes // len(table.values), codes % len(table.values)
            pairs = table.whole(text, gram)
            if length == self.n:
                pairs += self._parts(table, text, gram, found.totals, telling)
            for one, item in pairs:
                first[one] = min(item, first.get(one, item))
        return [Held(text, item) for text, item in sorted(first.items())]

    def _parts(
        self, table: _Table, text: Numbers, gram: Numbers, totals: Numbers, telling: Telling
    ) -> list[tuple[int, int]]:
        """(text, item) of matched n-grams: enough that tell, of the item or the text."""
        some = np.flatnonzero(telling.grams[gram])
        if not some.size:
            return []
        texts, items = table.spread(text[some], gram[some])
        pairs, counts = np.unique(texts * table.count + items, return_counts=True)
        texts, items = pairs // table.count, pairs % table.count
        enough = counts >= telling.enough[items]
        # A text's own n-grams that are held out, whichever items they are of.
        own = np.bincount(text[some], minlength=len(totals))
        enough |= own[texts] >= np.maximum(self.share * totals[texts], 1)
        return list(zip(texts[enough].tolist(), items[enough].tolist(), strict=True))


class _Table:
    """N-grams of one length: ``values`` (G,), sorted, each once, and the items that each is of.

    Of items with the same n-grams the first stands for all.
    """

    def __init__(self, parts: Sequence[tuple[Hashes, Numbers]]) -> None:
        hashes = np.concatenate([part[0] for part in parts])
        items = np.concatenate([part[1] for part in parts])
        self.values, gram = np.unique(hashes, return_inverse=True)
        self.count = int(items.max()) + 1
        codes = _distinct(gram * self.count + items)  # of an item, each n-gram once
        gram, item = codes // self.count, codes % self.count
        sums = np.zeros(self.count, np.uint64)  # modulo 2**64: the same for the same n-grams
        np.add.at(sums, item, self.values[gram])
        present = _distinct(item)
        first = np.isin(item, present[np.unique(sums[present], return_index=True)[1]])
        self._gram, self._item = gram[first], item[first]
        self._starts = np.searchsorted(self._gram, np.arange(len(self.values) + 1))
        self.items_of = np.diff(self._starts)  # (G,): how many items have each n-gram
        by_item = np.argsort(self._item, kind="stable")
        self._grams = self._gram[by_item]  # each item's, end to end
        self._begins = np.searchsorted(self._item[by_item], np.arange(self.count + 1))
        # A bit for the first bits of each hash, far more than there are hashes.
        bits = max(20, (_BITS * len(self.values)).bit_length())
        self._shift = np.uint64(64 - bits)
        places = self._places(self.values)
        begins = np.flatnonzero(np.diff(places >> 3, prepend=-1))
        self._seen = np.zeros(2**bits >> 3, np.uint8)
        self._seen[places[begins] >> 3] = np.bitwise_or.reduceat(np.uint8(1) << (places & 7).astype(np.uint8), begins)

    def _places(self, hashes: Hashes) -> Numbers:
        return (hashes >> self._shift).astype(np.int64)

    def matches(self, hashes: Hashes) -> tuple[Numbers, Numbers]:
        """Which of ``hashes`` are known, and which of ``values`` they are."""
        places = self._places(hashes)
        some = np.flatnonzero(self._seen[places >> 3] >> (places & 7).astype(np.uint8) & 1)
        place = np.minimum(np.searchsorted(self.values, hashes[some]), len(self.values) - 1)
        hit = self.values[place] == hashes[some]
        return some[hit], place[hit]

    def grams_of(self, wanted: NDArray[np.bool_]) -> Numbers:
        """How many of the wanted n-grams each item has, (I,)."""
        return np.bincount(self._item[wanted[self._gram]], minlength=self.count)

    def spread(self, text: Numbers, gram: Numbers) -> tuple[Numbers, Numbers]:
        """(text, item) for each text and each item of its n-gram."""
        number = self._starts[gram + 1] - self._starts[gram]
        places = np.repeat(self._starts[gram] - np.cumsum(number) + number, number) + np.arange(number.sum())
        return np.repeat(text, number), self._item[places]

    def whole(self, text: Numbers, gram: Numbers) -> list[tuple[int, int]]:
        """(text, item) where all of an item's n-grams are in the text."""
        there = _distinct(gram)
        _, items = self.spread(there, there)
        items, counts = np.unique(items, return_counts=True)
        items = items[counts == np.diff(self._begins)[items]]  # of which no n-gram is missing everywhere
        order = np.lexsort((text, gram))
        text, gram = text[order], gram[order]
        found: list[tuple[int, int]] = []
        for item in items.tolist():
            grams = self._grams[self._begins[item] : self._begins[item + 1]]
            begins, ends = np.searchsorted(gram, grams), np.searchsorted(gram, grams, side="right")
            rarest = np.argsort(ends - begins, kind="stable").tolist()
            holders = text[begins[rarest[0]] : ends[rarest[0]]]
            for one in rarest[1:]:
                if not holders.size:
                    break
                holders = np.intersect1d(holders, text[begins[one] : ends[one]], assume_unique=True)
            found += [(holder, item) for holder in holders.tolist()]
        return found


def _distinct(values: Numbers) -> Numbers:
    """``np.unique``, which in numpy 2.4 hashes them first: 0.38 s for 540,000 numbers, 0.007 s for a sort."""
    values = np.sort(values)
    first: NDArray[np.bool_] = np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]
    return values[first]


def _only(of: Units, texts: Numbers) -> Units:
    """The units of some of the texts."""
    wanted = np.zeros(len(of.counts), bool)
    wanted[texts] = True
    return Units(of.hashes[np.repeat(wanted, of.counts)], np.concatenate([[0], np.cumsum(of.counts[texts])]))
