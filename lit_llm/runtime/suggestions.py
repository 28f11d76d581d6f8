"""The nearest match of a misspelt name, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

MANY = 40  # names that a line can list


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name most like ``name``, upper case ignored, or None where nothing is like it."""
    by_lower = {str(n).lower(): str(n) for n in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def hint(name: str, known: Collection[str]) -> str:
    """What a message says after an unknown key: the nearest one, else those that are known."""
    near = nearest(name, known, cutoff=0.5)
    if near is not None:
        return f"did you mean {near}?"
    if len(known) > MANY:
        groups = sorted({key.partition(".")[0] for key in known})
        return f"known here: {', '.join(groups)}, and what is in them (--help lists it)"
    return f"known here: {', '.join(sorted(known))}" if known else "nothing can be set here"
