"""Which pairs of answers two rankings order alike: what every measure of agreement counts. Needs no package."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def same_order(
    one: Sequence[float | None], two: Sequence[float | None], *, ties_differ: bool = False
) -> tuple[int, int]:
    """Of the pairs of places that both rank and neither ties: how many they order alike, and how many there are.

    ``ties_differ``: a pair that ``two`` alone ties counts, as not alike (who ties what is known to differ is wrong).
    """
    alike = total = 0
    both = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    for (a, b), (c, d) in itertools.combinations(both, 2):
        if a != c and (b != d or ties_differ):
            total += 1
            alike += b != d and (a < c) == (b < d)
    return alike, total
