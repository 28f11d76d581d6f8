"""A number with its noun, as people write it: ``1 row``, ``2,000 rows``."""

from __future__ import annotations


def counted(number: int, noun: str, several: str = "") -> str:
    """``several``: of more than one, where that is not the noun with an s (``counted(n, "entry", "entries")``)."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def verb(number: int, of_one: str, of_several: str) -> str:
    """The form of a verb, or of any other word, that goes with a number: ``verb(n, "is", "are")``."""
    return of_one if number == 1 else of_several
