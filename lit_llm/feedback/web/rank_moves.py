"""Up and down without script: what the arrow buttons do to the ranks (``static/ranking.js`` does the same)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def groups(ranks: Mapping[str, int | None], keys: Sequence[str]) -> list[list[str]]:
    """The ranked keys, best first; those that tie stand together. Unranked keys are left out."""
    places = sorted({rank for key in keys if (rank := ranks.get(key)) is not None})
    return [[key for key in keys if ranks.get(key) == place] for place in places]


def moved(ranks: Mapping[str, int | None], keys: Sequence[str], key: str, up: bool) -> dict[str, int | None]:
    """The ranks (1, 2, ... without gaps) after one card moved by one place.

    A card without a rank becomes the last; a tied one leaves its group towards where it moves; any other changes
    places with the group next to it.
    """
    order = groups(ranks, keys)
    at = next((n for n, group in enumerate(order) if key in group), None)
    if at is None:
        order.append([key])
    elif len(order[at]) > 1:
        order[at].remove(key)
        order.insert(at if up else at + 1, [key])
    else:
        other = at - 1 if up else at + 1
        if 0 <= other < len(order):
            order[at], order[other] = order[other], order[at]
    dense: dict[str, int | None] = {name: place for place, group in enumerate(order, 1) for name in group}
    return {name: dense.get(name) for name in keys}
