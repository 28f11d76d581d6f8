"""The chain of models as a small picture: who starts from whom, and whether the hashes still hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

State = Literal["verified", "differs", "unchecked"]
SIGNS: dict[State, str] = {"verified": "✓", "differs": "✗", "unchecked": "·"}
WORDS: dict[State, str] = {"verified": "hashes verified", "differs": "hashes differ", "unchecked": "not checked"}

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, EDGE = 132, 82, 22, 20, 2
LINE = 17


@dataclass(frozen=True)
class Link:
    """A stage in the picture: two short lines of text under its name, and its check."""

    name: str
    parents: tuple[str, ...]
    lines: tuple[str, str]
    state: State = "unchecked"
    detail: str = ""


def chain_picture(links: Sequence[Link]) -> Markup:
    """Boxes in columns by how far they are from the start, joined by curves. Order within a column is the input's."""
    places = place(links)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    width = columns * BOX_WIDTH + (columns - 1) * GAP_X + 2 * EDGE
    height = rows * BOX_HEIGHT + (rows - 1) * GAP_Y + 2 * EDGE
    parts = [_edge(places[parent], places[link.name]) for link in links for parent in link.parents if parent in places]
    parts += [_box(link, places[link.name]) for link in links]
    said = "; ".join(
        f"{link.name} from {' and '.join(link.parents) or 'scratch'}, {WORDS[link.state]}" for link in links
    )
    svg = '<svg class="chain" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    return Markup(svg).format(width, height, width, height, said, Markup("").join(parts))


def place(links: Sequence[Link]) -> dict[str, tuple[int, int]]:
    """Column and row of every box. A box stays in its parent's row where that is free to the right of the parent."""
    known = {link.name: link for link in links}
    depth: dict[str, int] = {}
    for link in links:
        _depth(link.name, known, depth, ())
    taken: set[tuple[int, int]] = set()
    result: dict[str, tuple[int, int]] = {}
    for link in sorted(links, key=lambda each: depth[each.name]):
        column = depth[link.name]
        row = min((result[parent][1] for parent in link.parents if parent in result), default=0)
        while (column, row) in taken:
            row += 1
        taken.add((column, row))
        result[link.name] = (column, row)
    return result


def _depth(name: str, known: Mapping[str, Link], depth: dict[str, int], above: tuple[str, ...]) -> int:
    if name in above:
        return 0  # a damaged lineage may name itself: the picture is drawn all the same
    if name not in depth:
        parents = [parent for parent in known[name].parents if parent in known]
        depth[name] = 1 + max((_depth(parent, known, depth, (*above, name)) for parent in parents), default=-1)
    return depth[name]


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return EDGE + place[0] * (BOX_WIDTH + GAP_X), EDGE + place[1] * (BOX_HEIGHT + GAP_Y)


def _edge(parent: tuple[int, int], child: tuple[int, int]) -> Markup:
    """From the parent's right side to the child's left; over a box between them it runs in the gap below it."""
    (x0, y0), (x1, y1) = _corner(parent), _corner(child)
    x0, y0, y1 = x0 + BOX_WIDTH, y0 + BOX_HEIGHT // 2, y1 + BOX_HEIGHT // 2
    half = GAP_X // 2
    if child[0] - parent[0] > 1:
        under = max(y0, y1) + BOX_HEIGHT // 2 + GAP_Y // 2
        if y0 != y1:
            under = min(y0, y1) + BOX_HEIGHT // 2 + GAP_Y // 2
        down, up = f"{x0 + half} {y0} {x0} {under} {x0 + half} {under}", f"{x1} {under} {x1 - half} {y1} {x1} {y1}"
        path = f"M{x0} {y0}C{down}H{x1 - half}C{up}"
    else:
        path = f"M{x0} {y0}C{x0 + half} {y0} {x1 - half} {y1} {x1} {y1}"
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(link: Link, place: tuple[int, int]) -> Markup:
    x, y = _corner(place)
    title = Markup("<title>{}</title>").format(f"{link.name}: {link.detail or WORDS[link.state]}")
    rect = Markup('<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="8"/>').format(
        link.state, x, y, BOX_WIDTH, BOX_HEIGHT
    )
    words = link.name.split("_")
    half = (len(words) + 1) // 2 if len(link.name) > 14 else len(words)  # a long name takes two lines
    names = [" ".join(part) for part in (words[:half], words[half:]) if part]
    texts = [Markup('<text class="name" x="{}" y="{}">{}</text>').format(x + 11, y + 20 + LINE * i, names[i])
             for i in range(len(names))]  # fmt: skip
    lines = ((y + 56, "small", link.lines[0]), (y + 73, f"small {link.state}", f"{SIGNS[link.state]} {link.lines[1]}"))
    for at, style, line in lines:
        texts.append(Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, x + 11, at, line))
    return Markup("<g>{}</g>").format(Markup("").join([title, rect, *texts]))
