"""Line charts as inline SVG: no library, no script; a line's dashes tell it apart besides its colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 36
SMOOTH_FROM = 60  # a line of this many points and more is noisy enough to be shown smoothed over its raw values
HOVER_POINTS = 40  # values that can be pointed at, per line

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A labelled line. ``notes`` are shown when a point is pointed at, besides its numbers; ``errors`` are standard
    errors, drawn as bars where they are finite."""

    label: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    smooth: bool = False
    errors: tuple[float, ...] = ()

    def reach(self) -> Iterator[float]:
        """The ends of the bars."""
        for (_, value), error in zip(self.points, self.errors, strict=False):
            if isfinite(error):
                yield from (value - error, value + error)


@dataclass(frozen=True)
class Scale:
    """Maps a range of values onto pixels, the range widened to round numbers."""

    low: float
    high: float
    first: float  # pixel of ``low``
    last: float  # pixel of ``high``
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def line_chart(title: str, lines: Sequence[Line], x_label: str = "step", path: bool = False) -> Markup:
    """A chart of ``lines`` over x. ``path``: the order of points is time, not x; start and end are marked."""
    points = [point for line in lines for point in line.points]
    x = scale([p[0] for p in points], LEFT, WIDTH - RIGHT, tight=not path)
    y = scale([*(p[1] for p in points), *(end for line in lines for end in line.reach())], HEIGHT - BOTTOM, TOP)
    parts: list[str | Markup] = [_axes(x, y, x_label)]
    for number, line in enumerate(lines):
        parts.extend(_line(number, line, x, y, x_label))
        if path:
            parts.extend(_ends(number, line, x, y))
    text = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return text.format(WIDTH, HEIGHT, describe(title, lines, x_label), Markup("").join(parts))


def describe(title: str, lines: Sequence[Line], x_label: str) -> str:
    """The chart in words, for those who do not see it."""
    said = [f"{line.label or title} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines]
    return f"{title} over {x_label}: {'; '.join(said)}"


def scale(values: Sequence[float], first: float, last: float, tight: bool = False) -> Scale:
    """Round ticks around ``values``; ``tight`` ends the range at the data instead of at a tick."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    step = round_step((high - low) / 4)
    start, end = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(start, end + 1))
    if tight:
        return Scale(low, high, first, last, tuple(t for t in ticks if low <= t <= high))
    return Scale(ticks[0], ticks[-1], first, last, ticks)


def round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is not smaller than ``rough``."""
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """A number short enough for an axis: 1.25, 0.0003, 12k, 3.4M."""
    size = abs(value)
    if size == 0:
        return "0"
    for limit, divisor, unit in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / divisor:.3g}{unit}"
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def smoothed(values: Sequence[float]) -> list[float]:
    """Centred means over a twentieth of the points, narrower at the ends."""
    n, half = len(values), max(1, len(values) // 40)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    result = []
    for i in range(n):
        reach = min(half, i, n - 1 - i)
        result.append((sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return result


def _axes(x: Scale, y: Scale, x_label: str) -> Markup:
    parts = []
    for tick in y.ticks:
        at = y(tick)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, at, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{:.1f}" class="end">{}</text>').format(LEFT - 6, at + 3.5, number(tick)))
    for tick in x.ticks:
        text = Markup('<text x="{:.1f}" y="{}" class="middle">{}</text>')
        parts.append(text.format(min(x(tick), WIDTH - 16), HEIGHT - BOTTOM + 15, number(tick)))
    label = Markup('<text x="{}" y="{}" class="middle axis">{}</text>')
    parts.append(label.format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label))
    return Markup("").join(parts)


def _line(order: int, line: Line, x: Scale, y: Scale, x_label: str) -> Iterator[Markup]:
    values = [value for _, value in line.points]
    style = f"line s{order % 6}"
    if line.smooth and len(values) >= SMOOTH_FROM:
        yield _polyline(f"{style} raw", [(x(a), y(b)) for a, b in line.points])
        values = smoothed(values)
    yield _polyline(style, [(x(a), y(b)) for (a, _), b in zip(line.points, values, strict=True)])
    for (at, value), error in zip(line.points, line.errors, strict=False):
        if isfinite(error):
            bar = Markup('<path class="line error s{}" d="M{:.1f} {:.1f}V{:.1f}"/>')
            yield bar.format(order % 6, x(at), y(value - error), y(value + error))
    every = max(1, ceil(len(values) / HOVER_POINTS))
    for i in sorted({*range(0, len(values), every), len(values) - 1}):
        at, value = line.points[i]
        said = f"{line.label + ': ' if line.label else ''}{number(value)} at {x_label} {number(at)}"
        said += f" ({line.notes[i]})" if line.notes else ""
        spot = Markup('<circle class="spot s{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>')
        yield spot.format(order % 6, x(at), y(values[i]), 2.2 if len(values) <= 12 else 5, said)


def _polyline(style: str, points: Sequence[Point]) -> Markup:
    if len(points) == 1:  # one value: a mark, since a line of one point does not show
        return Markup('<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(style, *points[0])
    text = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, text)


def _ends(order: int, line: Line, x: Scale, y: Scale) -> Iterator[Markup]:
    for name, (a, b) in (("start", line.points[0]), ("end", line.points[-1])):
        mark = Markup('<circle class="mark s{} {}" cx="{:.1f}" cy="{:.1f}" r="4"/>')
        yield mark.format(order % 6, name, x(a), y(b))
        left = x(a) > WIDTH / 2
        text = Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>')
        yield text.format(x(a) + (-8 if left else 8), y(b) + 3.5, "end strong" if left else "strong", escape(name))
