"""What is searched, written as Hydra's sweeps are, as Optuna's distributions.

======================================  ================================================================
``a,b,c``, ``choice(a,b)``              one of these, without an order
``range(1,5)``, ``range(0,1,step=.25)``  whole or decimal numbers in steps, the end left out as Hydra does
``interval(0.1,1)``                     any number between, ends included
``int(interval(1,8))``                  any whole number between, ends included
``tag(log, interval(1e-5,1e-3))``       drawn by its logarithm; whole numbers too
======================================  ================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Transformer,
)

from lit_llm.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Dimension:
    """One key of a search."""

    key: str
    distribution: BaseDistribution
    texts: Mapping[str, str]  # of a choice: how each is written in an override, by its repr

    def word(self, value: Any) -> str:
        """The override that gives a trial its value."""
        return f"{self.key}={self.texts.get(repr(value), str(value))}"

    @property
    def first(self) -> Any:
        """A value that the distribution has."""
        choices = getattr(self.distribution, "choices", None)
        return choices[0] if choices else getattr(self.distribution, "low", None)


def split(overrides: Iterable[Override]) -> tuple[dict[str, Dimension], dict[str, str]]:
    """What is searched, and the other overrides as words, both by key; of a key that comes twice the last counts.

    Raises UserError for what no search can be made of.
    """
    searched: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        searched.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            searched[key] = dimension(override)
        else:
            value = override.get_value_element_as_str() if not override.is_delete() or override.value_type else None
            fixed[key] = key if value is None else f"{key}={value}"
    return searched, fixed


def dimension(override: Override) -> Dimension:
    """The distribution of a sweep. Raises UserError where it is empty, or has a tag that means nothing here."""
    value: Any = override.value()
    tags = set(getattr(value, "tags", ()))
    if unknown := tags - {"log"}:
        raise _wrong(override, f"the tag {sorted(unknown)[0]} is unknown; log is the one there is")
    if isinstance(value, IntervalSweep):
        return _numbers(override, value.start, value.end, None, "log" in tags)
    if isinstance(value, RangeSweep):
        if not value.step:
            raise _wrong(override, "the step must not be 0")
        low, high, several = _ends(value)
        if low is None:
            raise _wrong(override, "is empty; its end is left out")
        return _numbers(override, low, high, abs(value.step) if several else 1, "log" in tags)
    if tags:
        raise _wrong(override, "a choice has no order; log is for interval and range")
    return _choice(override, value)


def _ends(value: RangeSweep) -> tuple[Any, Any, bool]:
    """The least and the greatest number of a range, and whether they differ; None: there is none. Not listed: a range
    may be of any length."""
    start, stop, step = (Decimal(str(each)) for each in (value.start, value.stop, value.step))  # as they are written
    steps = math.ceil((stop - start) / step) - 1
    if steps < 0:
        return None, None, False
    whole = all(isinstance(each, int) for each in (value.start, value.stop, value.step))
    ends = sorted((start, start + steps * step))
    low, high = (int(each) if whole else float(each) for each in ends)
    return low, high, steps > 0


def _numbers(override: Override, low: Any, high: Any, step: Any, log: bool) -> Dimension:
    from optuna.distributions import FloatDistribution, IntDistribution

    whole = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    if not (math.isfinite(low) and math.isfinite(high)) or low > high or (low == high and step is None):
        raise _wrong(override, "must be from a lesser number to a greater one")
    if log and (step not in (None, 1) or (step is not None and not whole)):
        raise _wrong(override, "steps and log do not go together; write interval for range")
    if log and low <= 0:
        raise _wrong(override, "log begins above 0")
    kind: Any = IntDistribution if whole else FloatDistribution
    if whole:
        return Dimension(override.get_key_element(), kind(low, high, log=log, step=step or 1), {})
    return Dimension(override.get_key_element(), kind(float(low), float(high), log=log, step=step), {})


def _choice(override: Override, value: Any) -> Dimension:
    from optuna.distributions import CategoricalDistribution

    values = value.list if isinstance(value, ChoiceSweep) else list(override.sweep_iterator())
    written = [Transformer.str(each) for each in values]
    if not written:
        raise _wrong(override, "no such file in the group")
    choices = [_plain(each, text) for each, text in zip(values, written, strict=True)]
    for number, one in enumerate(choices):  # Optuna compares by value, where true is 1
        same = [at for at, each in enumerate(choices[:number]) if each == one and type(each) is not type(one)]
        if same:
            raise _wrong(override, f"{written[same[0]]} and {written[number]} count as one value")
    return Dimension(
        override.get_key_element(), CategoricalDistribution(tuple(dict.fromkeys(choices))),
        {repr(choice): text for choice, text in zip(choices, written, strict=True)},
    )  # fmt: skip


def _plain(value: Any, text: str) -> Any:
    """A choice as Optuna keeps it: numbers as they are, texts without quotes, lists and mappings as written."""
    if isinstance(value, QuotedString):
        return value.text
    return value if value is None or isinstance(value, bool | int | float | str) else text


def _wrong(override: Override, said: str) -> UserError:
    return UserError(f"{override.input_line}: {said}")
