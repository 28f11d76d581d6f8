"""Scalar curves out of TensorBoard's event files, thinned to what a page can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

from lit_llm.runtime.curve_tags import logged

MAX_POINTS = 240
"""More points than this do not show on a chart 600 pixels wide and make the page heavy."""


@dataclass(frozen=True)
class Curve:
    """One scalar over optimizer steps."""

    tag: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    lost: int = 0  # values that were not finite: left out of the line, named beside it

    @property
    def last(self) -> float:
        return self.values[-1]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every scalar tag under ``folder`` (its subfolders too), by tag. Empty if there is none."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    curves: dict[str, Curve] = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(place), size_guidance={SCALARS: 0})  # 0: keep them all
        events.Reload()
        for written in events.Tags()["scalars"]:
            # Of a resumed step the last one counts.
            points = {event.step: float(event.value) for event in events.Scalars(written)}
            curve = _curve(tag := logged(written), points)
            if curve is not None and (tag not in curves or len(curve.steps) > len(curves[tag].steps)):
                curves[tag] = curve
    return curves


def _curve(tag: str, points: Mapping[int, float]) -> Curve | None:
    finite = sorted((step, value) for step, value in points.items() if isfinite(value))
    if not finite:
        return None
    steps, values = zip(*finite, strict=True)
    return thin(Curve(tag, steps, values, lost=len(points) - len(finite)))


def thin(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """At most ``limit`` points: means over runs of neighbours, the first and the last point kept as they are."""
    n = len(curve.steps)
    if n <= limit:
        return curve
    edges = [1 + round(i * (n - 2) / (limit - 2)) for i in range(limit - 1)]
    steps, values = [curve.steps[0]], [curve.values[0]]
    for low, high in pairwise(edges):
        steps.append(curve.steps[(low + high - 1) // 2])
        values.append(sum(curve.values[low:high]) / (high - low))
    return Curve(curve.tag, (*steps, curve.steps[-1]), (*values, curve.values[-1]), curve.lost)


def paired(x: Curve, y: Curve) -> list[tuple[int, float, float]]:
    """(step, x, y) where both curves have a value at the same step."""
    at = dict(zip(y.steps, y.values, strict=True))
    return [(step, value, at[step]) for step, value in zip(x.steps, x.values, strict=True) if step in at]
