"""MinHash signatures and their bands (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3).

The share of a signature's values that two texts have in common estimates their Jaccard similarity: shared n-grams over
all n-grams. Texts that agree in all values of a band are candidates, which ``near_duplicates`` then compares in truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.quality.units import Hashes, Units, ngrams, pieces, units

VALUES = 128  # at most, of a signature
FOUND = 0.995  # chance to become candidates, of two texts whose similarity is just the threshold
NONE = np.uint64(2**64 - 1)
"""All values of a text without a unit."""


def shape(threshold: float) -> tuple[int, int]:
    """Bands and values a band: the longest bands that still find a pair at the threshold with the chance ``FOUND``."""
    for rows in range(16, 1, -1):
        bands = VALUES // rows
        if 1 - (1 - threshold**rows) ** bands >= FOUND:
            return bands, rows
    return VALUES, 1


def multipliers(count: int) -> Hashes:
    """Odd numbers of 64 bits, always the same: multiplied by each, the n-grams stand in another order."""
    drawn = np.random.Generator(np.random.PCG64(20_110_101)).integers(0, 2**63, count, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)


def signatures(runs: Units, count: int) -> Hashes:
    """The least of each text's n-grams in ``count`` orders, (D, count); ``NONE`` for a text without any."""
    found = np.full((len(runs.counts), count), NONE, np.uint64)
    some = np.flatnonzero(runs.counts)
    starts = runs.bounds[:-1][some]
    if some.size:
        for column, factor in enumerate(multipliers(count)):
            found[some, column] = np.minimum.reduceat(runs.hashes * factor, starts)
    return found


def band_hashes(texts: Sequence[str], n: int, bands: int, rows: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Of each text one hash a band (D, bands), 8 bytes each, which is all that is kept of it; and its units, (D,)."""
    found = np.full((len(texts), bands), NONE, np.uint64)
    lengths = np.zeros(len(texts), np.int64)
    pending: Hashes | None = None  # the values so far of a text that comes in several pieces
    owner = -1
    for numbers, portion in pieces(texts):
        of = units(portion)
        np.add.at(lengths, numbers, of.counts)
        values = signatures(ngrams(of, n), bands * rows)
        for at in np.flatnonzero(numbers[1:] == numbers[:-1]):  # pieces of one text in one portion
            values[at + 1] = np.minimum(values[at], values[at + 1])
        if pending is not None and numbers[0] == owner:
            same = numbers == owner
            values[same] = np.minimum(values[same], pending)
        owner, pending = int(numbers[-1]), values[-1]
        found[numbers] = _bands(values, bands, rows)
    return found, lengths


def _bands(values: Hashes, bands: int, rows: int) -> Hashes:
    """Signatures (D, bands * rows) with the values of each band as one hash, (D, bands)."""
    parts = values.reshape(len(values), bands, rows)
    hashes = parts[:, :, 0].copy()
    for row in range(1, rows):
        hashes = hashes * np.uint64(0xD1B54A32D192ED03) + parts[:, :, row]
    hashes ^= hashes >> np.uint64(29)
    hashes[(values == NONE).all(1)] = NONE
    return hashes
