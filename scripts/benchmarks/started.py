"""Results without what every call spends before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.race import Result
from lit_llm.errors import UserError


def without_start(results: Sequence[Result]) -> Iterator[Result]:
    """A run sets its loop up once, a call of the race each time: TRL's trainer takes a quarter of a second for it.

    Takes ``start_seconds`` from the time of a call of ``call_units``, both among the contestant's numbers.
    Raises UserError where nothing is left.
    """
    for each in results:
        start, units = each.numbers["start_seconds"], each.numbers["call_units"]
        seconds = [units / speed - start for speed in each.rounds]
        if min(seconds) <= 0:
            raise UserError(f"{each.name}: a call takes no longer than its start of {start:.2f} s; give it more work")
        yield replace(each, rounds=tuple(units / left for left in seconds))
