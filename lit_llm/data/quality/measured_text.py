"""A text as the quality rules see it: its words, lines and paragraphs, and what repeats in it."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.quality.units import Hashes, Units, ngrams

_BLOCKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ALONE = re.compile(f"[{_BLOCKS}\U00020000-\U0003ffff]")
_WORD = re.compile(f"[{_BLOCKS}\U00020000-\U0003ffff]|[^\\s{_BLOCKS}\U00020000-\U0003ffff]+")
AT_ONCE = 100_000  # words whose runs are hashed together
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")


class MeasuredText:
    """A text as its rules see it."""

    def __init__(self, text: str, is_english: Callable[[str], bool]) -> None:
        self.text, self.is_english = text, is_english
        self.vocabulary: dict[str, int] = {}
        numbers = array("i", (self.vocabulary.setdefault(m[0], len(self.vocabulary)) for m in _WORD.finditer(text)))
        self.words = np.frombuffer(numbers, np.int32) if numbers else np.zeros(0, np.int32)  # by their numbers
        self.lengths = np.array([len(word) for word in self.vocabulary], np.int32)[self.words]
        self.spaced = self.count(lambda word: bool(_ALONE.match(word))) * 2 < max(1, len(self.words))
        self.lines = [line.strip() for line in text.split("\n") if line.strip()]
        self.paragraphs = [part.strip() for part in _PARAGRAPH.split(text) if part.strip()]
        self.characters = max(1, int(self.lengths.sum()))
        self.per_word = 1 if self.spaced else 2  # words of Chinese have about two characters

    def share(self, count: int, of: Sized) -> float:
        return count / max(1, len(of))

    def count(self, wanted: Callable[[str], bool]) -> int:
        """How many of the words are such, each as often as it is there."""
        such = np.fromiter(map(wanted, self.vocabulary), bool, len(self.vocabulary))
        return int(such[self.words].sum())

    def _runs(self, n: int) -> Hashes:
        """The runs of n words, hashed, (R,): 8 bytes a word."""
        hashes = np.zeros(max(0, len(self.words) - n + 1), np.uint64)
        for begin in range(0, len(hashes), AT_ONCE):
            words = self.words[begin : begin + AT_ONCE + n - 1].astype(np.uint64) + np.uint64(1)
            hashes[begin : begin + AT_ONCE] = ngrams(Units(words, np.array([0, len(words)])), n, short=False).hashes
        return hashes

    def repeated(self, parts: Sequence[str]) -> list[str]:
        """The parts that an earlier one equals."""
        seen: set[str] = set()
        return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]

    def top(self, n: int) -> float:
        """The share of characters of the most frequent run of n words, the one with most characters of several."""
        n *= self.per_word
        hashes = self._runs(n)
        values = np.sort(hashes)
        starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
        counts = np.diff(starts, append=len(values))
        most = int(counts.max(initial=0))
        if most < 2:
            return 0.0
        places = _places(hashes, values[starts[counts == most]])
        return max(int(self.lengths[at : at + n].sum()) for at in places.tolist()) * most / self.characters

    def repeating(self, n: int) -> float:
        """The share of characters in runs of n words that occur more than once, none counted twice."""
        n *= self.per_word
        hashes = self._runs(n)
        values = np.sort(hashes)
        values = values[1:][values[1:] == values[:-1]]
        covered = np.zeros(len(self.words), bool)
        places = _places(hashes, values)
        for offset in range(n):
            covered[places + offset] = True
        return int(self.lengths[covered].sum()) / self.characters


def _places(hashes: Hashes, wanted: Hashes) -> NDArray[np.int64]:
    """Where ``hashes`` are among ``wanted``, which are sorted."""
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(hashes) if len(wanted) else 0, AT_ONCE):
        part = hashes[begin : begin + AT_ONCE]
        at = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
        found.append(np.flatnonzero(wanted[at] == part) + begin)
    return np.concatenate(found)
