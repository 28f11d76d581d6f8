"""The plot of ratios as one SVG file, readable on a light and on a dark page: no library, no script.

A bar from 1 to the median ratio, a thin line from the lowest to the highest round, a tick at the goal. A goal that was
missed has a hollow bar besides its colour and its word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log2

from lit_llm.benchmark.record import Comparison

CHARACTER, ROW, TOP, BOTTOM = 6.4, 28, 34, 44
AXIS, SAID = 330, 190  # pixels of the bars, and of the words right of them
LEAST = 2.0**-7  # what is drawn of a ratio below it: there is no end to halving
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#1f2328}.axis{fill:#59636e}.grid{stroke:#d1d9e0}.one{stroke:#59636e}
.met{fill:#0969da;stroke:#0969da}.missed{fill:none;stroke:#bc4c00;stroke-width:2}.shown{fill:#818b98;stroke:#818b98}
.spread{stroke:#1f2328}.goal{stroke:#1f2328;stroke-width:3}.word-missed{fill:#bc4c00;font-weight:600}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis{fill:#9198a1}.grid{stroke:#3d444d}.one{stroke:#9198a1}
.met{fill:#4493f8;stroke:#4493f8}.missed{stroke:#f0883e}.shown{fill:#656c76;stroke:#656c76}
.spread,.goal{stroke:#e6edf3}.word-missed{fill:#f0883e}}
"""


def plot(comparisons: Sequence[Comparison]) -> str:
    """The file's text. Ratios of memory are turned around, so that longer is better everywhere."""
    left = 16 + CHARACTER * max(len(_label(each)) for each in comparisons)
    width, height = round(left + AXIS + SAID), TOP + ROW * len(comparisons) + BOTTOM
    scale = Scale(comparisons, left)
    words = "; ".join(f"{_label(each)}: {_said(each)}" for each in comparisons)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(words)}"><style>{_STYLE}</style>',
        f'<text x="{left:.0f}" y="16">times as fast as the fastest rival, or less of its memory</text>',
        *_grid(scale, height - BOTTOM),
        *(line for number, each in enumerate(comparisons) for line in _bar(each, TOP + ROW * number, scale)),
        *_legend(left, height - 10),
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


def _label(each: Comparison) -> str:
    return each.text + (", memory" if each.of == "memory" else "")


def _said(each: Comparison) -> str:
    ratio, _, _, wanted = _turned(each)
    text = f"{ratio:.2f}" + ("" if wanted is None else f", goal {wanted:.3g} {'met' if each.met else 'missed'}")
    return f"{text} (too few {each.few.split()[1].rstrip('s')}s)" if each.few else text


def _grid(scale: Scale, bottom: float) -> Iterator[str]:
    for power in range(scale.low, scale.high + 1):
        x = scale(2.0**power)
        kind = "one" if power == 0 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>'
        yield f'<text class="axis" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{2.0**power:g}</text>'


def _bar(each: Comparison, y: float, scale: Scale) -> Iterator[str]:
    ratio, low, high, wanted = _turned(each)
    begin, end = sorted((scale(1.0), scale(ratio)))
    kind = {True: "met", False: "missed", None: "shown"}[each.met]
    middle = y + 8
    yield f'<text x="{scale.left - 8:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(_label(each))}</text>'
    yield f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" height="16"/>'
    yield f'<line class="spread" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{middle}" y2="{middle}"/>'
    if wanted is not None:
        yield f'<line class="goal" x1="{scale(wanted):.1f}" x2="{scale(wanted):.1f}" y1="{y - 3}" y2="{y + 19}"/>'
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
