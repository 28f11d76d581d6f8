"""Texts as hashed units, and their n-grams: what near duplicates and contamination are found by.

A unit is a word, or one character of a script that sets no spaces between words. Case, punctuation, the Unicode form
(NFKC), Arabic vowel signs, the tatweel and invisible characters make no difference. All is done in numpy, for many
texts at once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BETWEEN, IN_WORD, ALONE, IGNORED = range(4)
"""What a character is: a separator, part of a word, a unit of its own, or nothing."""
_CODES = 0x110000
_LISTED = 0x20000  # of the planes above only ideographs are told apart, as a block
ARABIC_SIGNS = (*range(0x610, 0x61B), 0x640, *range(0x64B, 0x660), 0x670, *range(0x6D6, 0x6EE))
"""Of these, those that are marks or the tatweel: texts with them and without them are the same."""
WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""First and last code points of scripts that set no spaces between words."""
TOGETHER = 150_000  # characters that are hashed together: what is made of them fits a processor's cache
AT_ONCE = 1_000_000  # characters of a text above which it is cut: about 60 MB while it lasts
OVERLAP = 4_000  # characters that pieces of a longer text have in common, so that no n-gram falls between them
_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_STEP = np.uint64(0xD1B54A32D192ED03)


class Units(NamedTuple):
    """Of D texts; also their n-grams, which are told apart the same way."""

    hashes: Hashes  # (U,): all texts' end to end
    bounds: NDArray[np.int64]  # (D + 1,): where each text's begin

    @property
    def counts(self) -> NDArray[np.int64]:
        """Units of each text, (D,)."""
        return np.diff(self.bounds)


def normalized(text: str) -> str:
    """NFKC and without case; punctuation is left to ``units``."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()


def units(texts: Sequence[str]) -> Units:
    """The units of texts, hashed to 64 bits each; the memory is about 60 bytes a character."""
    cleaned = [normalized(text) for text in texts]
    joined = "\n".join([*cleaned, ""])
    ends = np.cumsum([len(text) + 1 for text in cleaned], dtype=np.int64)  # behind each text's separator
    codes: NDArray[Any]
    if joined.isascii():
        data = joined.encode("ascii")
        codes = np.frombuffer(data, np.uint8)
        kinds = np.frombuffer(data.translate(_kinds()[:256].tobytes()), np.uint8)
        values_of = _values()[:128]  # which stay in the processor's cache
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds, values_of = _kinds()[codes], _values()
    if (kinds == IGNORED).any():
        kept = kinds != IGNORED
        ends = np.concatenate([[0], np.cumsum(kept)])[ends]
        codes, kinds = codes[kept], kinds[kept]
    inside = kinds == IN_WORD
    begins = kinds == ALONE
    begins[:1] |= inside[:1]
    begins[1:] |= inside[1:] & ~inside[:-1]
    first = np.flatnonzero(begins)
    if not first.size:
        return Units(np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.int64))
    start = int(first[0])
    # The sum of each unit's characters, each times a power by its place; separators count nothing.
    place = np.arange(start, len(codes))
    place -= np.repeat(first, np.diff(first, append=len(codes)))
    values = values_of.take(codes[start:])
    values *= _powers(_BASE, int(place.max()) + 1).take(place)
    hashes = _mixed(np.add.reduceat(values, first - start))
    bounds = np.concatenate([[0], np.searchsorted(first, ends)]).astype(np.int64)
    return Units(hashes, bounds)


def ngrams(of: Units, n: int, *, short: bool = True) -> Units:
    """Runs of ``n`` units that do not leave their text, hashed; a text of fewer units is one run, or none."""
    found = ngrams_of_lengths(of, [n])[n]
    few = np.flatnonzero((of.counts > 0) & (of.counts < n)) if short else np.zeros(0, np.int64)
    if not few.size:
        return found
    runs = [  # all that there is, told apart from the beginning of a longer text
        run_hash(of.hashes[begin:end]) ^ np.uint64(end - begin)
        for begin, end in zip(of.bounds[few], of.bounds[few + 1], strict=True)
    ]
    hashes = np.insert(found.hashes, found.bounds[few], _mixed(np.array(runs, np.uint64)))
    counts = found.counts
    counts[few] = 1
    return Units(hashes, np.concatenate([[0], np.cumsum(counts)]))


def ngrams_of_lengths(of: Units, lengths: Collection[int]) -> dict[int, Units]:
    """Runs of several lengths, each as ``ngrams`` without short texts: a longer run goes on from a shorter one."""
    count, most = len(of.hashes), max(lengths)
    padded = np.concatenate([of.hashes, np.zeros(most - 1, np.uint64)])
    left = np.repeat(of.bounds[1:], of.counts) - np.arange(count)  # units of its text from each on
    runs = np.zeros(count, np.uint64)
    found = {}
    for offset in range(most):
        runs *= _STEP
        runs += padded[offset : offset + count]
        if (n := offset + 1) in lengths:
            per_text = np.maximum(of.counts - offset, 0)
            found[n] = Units(_mixed(runs[left >= n]), np.concatenate([[0], np.cumsum(per_text)]))
    return found


def run_hash(hashes: Hashes) -> np.uint64:
    """One run of units, as ``ngrams`` hashes it before its last mixing."""
    return np.uint64((hashes * _powers(_STEP, len(hashes))[::-1]).sum(dtype=np.uint64))


def pieces(texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
    """Texts in portions of about ``TOGETHER`` characters: (number of each text, the texts). One longer than ``AT_ONCE``
    is cut into pieces that overlap, with its number at each."""
    numbers: list[int] = []
    portion: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for begin in range(0, max(1, len(text) - OVERLAP), AT_ONCE - OVERLAP):
            part = text if len(text) <= AT_ONCE else text[begin : begin + AT_ONCE]
            if portion and size + len(part) > TOGETHER:
                yield np.array(numbers, np.int64), portion
                numbers, portion, size = [], [], 0
            numbers.append(number)
            portion.append(part)
            size += len(part)
            if part is text:
                break
    if portion:
        yield np.array(numbers, np.int64), portion


def without_spaces(code: int) -> bool:
    return any(first <= code <= last for first, last in WITHOUT_SPACES)


@cache
def _kinds() -> NDArray[np.uint8]:
    """What each code point is, (0x110000,)."""
    kinds = np.zeros(_CODES, np.uint8)
    signs = set(ARABIC_SIGNS)
    for code in range(_LISTED):
        category = unicodedata.category(chr(code))
        if category[0] in "LNM":
            ignored = code in signs and (category[0] == "M" or code == 0x640)
            kinds[code] = IGNORED if ignored else IN_WORD
        elif category == "Cf":
            kinds[code] = IGNORED
    for first, last in WITHOUT_SPACES:
        block = kinds[first : last + 1]
        block[block == IN_WORD] = ALONE
    kinds[0x20000:0x40000] = ALONE
    return kinds


@cache
def _values() -> Hashes:
    """A number of 64 bits for each code point, 0 for those in no unit, (0x110000,)."""
    values = _mixed(np.arange(_CODES, dtype=np.uint64))
    values[_kinds() == BETWEEN] = 0
    return values


def _powers(base: np.uint64, count: int) -> Hashes:
    """base**0, base**1, ... modulo 2**64."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
