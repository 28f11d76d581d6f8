"""The plot of ratios as one SVG file, readable on a light and on a dark page: no library, no script.

A group a work. A bar from 1 to the median ratio, a thin line from the lowest to the highest round, a tick at the goal.
A goal that was missed has a hollow bar besides its colour and its word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log2

from benchmarks.record import Comparison

Groups = Sequence[tuple[str, Sequence[Comparison]]]
"""A heading, and what stands below it."""

CHARACTER, BOLD = 6.4, 7.2  # pixels of a character, at most in the mean
ROW, BAR, HEADING, TOP, BOTTOM = 21, 12, 30, 40, 60  # pixels from above to below
AXIS = 330  # pixels of the bars
LEAST = 2.0**-7  # what is drawn of a ratio below it: there is no end to halving
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#1f2328}.axis{fill:#59636e}.grid{stroke:#d1d9e0}.one{stroke:#59636e}
.heading{font-weight:600}.met{fill:#0969da;stroke:#0969da}.missed{fill:none;stroke:#bc4c00;stroke-width:2}
.shown{fill:#818b98;stroke:#818b98}.spread{stroke:#1f2328}.goal{stroke:#1f2328;stroke-width:3}
.word-missed{fill:#bc4c00;font-weight:600}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis{fill:#9198a1}.grid{stroke:#3d444d}.one{stroke:#9198a1}
.met{fill:#4493f8;stroke:#4493f8}.missed{stroke:#f0883e}.shown{fill:#656c76;stroke:#656c76}
.spread,.goal{stroke:#e6edf3}.word-missed{fill:#f0883e}}
"""


def plot(groups: Groups) -> str:
    """The file's text. Bars of memory are turned around, so that longer is better everywhere."""
    rows = [each for _, found in groups for each in found]
    left = 20 + CHARACTER * max(len(each.text) for each in rows)
    height = TOP + HEADING * len(groups) + ROW * len(rows) + BOTTOM
    width = round(left + AXIS + 16 + BOLD * max(len(_said(each)) for each in rows))
    scale = Scale(rows, left)
    words = "; ".join(f"{heading}, {each.text}: {_said(each)}" for heading, found in groups for each in found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(words)}"><style>{_STYLE}</style>',
        f'<text x="{left:.0f}" y="14">times as fast as the fastest rival, or less of its memory</text>',
        *_grid(scale, height - BOTTOM),
        *_rows(groups, scale),
        *_legend(left, height - 12),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class Scale:
    """Ratios to pixels, doublings being equally far apart."""

    def __init__(self, comparisons: Sequence[Comparison], left: float) -> None:
        values = [value for each in comparisons for value in (*_turned(each)[:3], _turned(each)[3] or 1.0)]
        self.left = left
        self.low, self.high = floor(log2(min(*values, 1.0)) - 0.1), ceil(log2(max(*values, 2.0)) + 0.1)

    def __call__(self, ratio: float) -> float:
        return self.left + (log2(ratio) - self.low) / (self.high - self.low) * AXIS


def _turned(each: Comparison) -> tuple[float, float, float, float | None]:
    """Ratio, lowest, highest and goal, more being better; none below ``LEAST``."""
    ratio, low, high = (max(value, LEAST) for value in (each.ratio, each.low, each.high))
    if each.of == "memory":
        return 1 / ratio, 1 / high, 1 / low, 1 / each.wanted if each.wanted else None
    return ratio, low, high, each.wanted


def _said(each: Comparison) -> str:
    """As the table has it: memory is not turned around."""
    text = f"{each.ratio:.2f}" + (" of its memory" if each.of == "memory" else "")
    text += "" if each.wanted is None else f", goal {each.wanted:g} {'met' if each.met else 'missed'}"
    return f"{text} (too few {each.few.split()[1].rstrip('s')}s)" if each.few else text


def _grid(scale: Scale, bottom: float) -> Iterator[str]:
    """A line for every doubling, its number above and below."""
    for power in range(scale.low, scale.high + 1):
        x = scale(2.0**power)
        kind = "one" if power == 0 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{bottom}"/>'
        for y in (TOP - 8, bottom + 14):
            yield f'<text class="axis" x="{x:.1f}" y="{y}" text-anchor="middle">{2.0**power:g}</text>'


def _rows(groups: Groups, scale: Scale) -> Iterator[str]:
    y = float(TOP)
    for heading, found in groups:
        yield f'<text class="heading" x="4" y="{y + HEADING - 9:.1f}">{escape(heading)}</text>'
        y += HEADING
        for each in found:
            yield from _bar(each, y, scale)
            y += ROW


def _bar(each: Comparison, y: float, scale: Scale) -> Iterator[str]:
    ratio, low, high, wanted = _turned(each)
    begin, end = sorted((scale(1.0), scale(ratio)))
    kind = {True: "met", False: "missed", None: "shown"}[each.met]
    middle = y + BAR / 2
    yield f'<text x="{scale.left - 8:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(each.text)}</text>'
    yield f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" height="{BAR}"/>'
    yield f'<line class="spread" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{middle}" y2="{middle}"/>'
    if wanted is not None:
        x = scale(wanted)
        yield f'<line class="goal" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + BAR + 3}"/>'
    word = ' class="word-missed"' if each.met is False else ""
    yield f'<text{word} x="{scale.left + AXIS + 12:.1f}" y="{middle + 4:.1f}">{escape(_said(each))}</text>'


def _legend(left: float, y: float) -> Iterator[str]:
    entries = (("met", "goal met"), ("missed", "goal missed"), ("shown", "no goal set"))
    for number, (kind, text) in enumerate(entries):
        x = left + 105 * number
        yield f'<rect class="{kind}" x="{x:.1f}" y="{y - 10}" width="12" height="12"/>'
        yield f'<text x="{x + 18:.1f}" y="{y}">{text}</text>'
    yield f'<line class="goal" x1="{left + 325:.1f}" x2="{left + 325:.1f}" y1="{y - 12}" y2="{y + 4}"/>'
    yield f'<text x="{left + 333:.1f}" y="{y}">goal</text>'
