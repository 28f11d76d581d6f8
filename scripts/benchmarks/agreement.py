"""Whoever is timed beside others computes the same as they do, or nothing that is measured says anything."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.race import Result
from lit_llm.errors import UserError


def demand(results: Sequence[Result], keys: Sequence[str], tolerance: float) -> None:
    """Raises UserError where one of these numbers differs between two of them by more than ``tolerance`` of it.

    The first result is what the others are held against; numbers that one of the two lacks are not compared.
    """
    for other in results[1:]:
        for key in (each for each in keys if each in results[0].numbers and each in other.numbers):
            ours, theirs = results[0].numbers[key], other.numbers[key]
            if not abs(ours - theirs) <= tolerance * abs(ours):
                raise UserError(
                    f"{other.name}: {key} {theirs:.6g} where {results[0].name} has {ours:.6g}; "
                    f"they do not compute the same (tolerance {tolerance:.1%})"
                )
