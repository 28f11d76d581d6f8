"""Texts that all differ, and files of them."""

import json
import random

WORDS = "the cat sat on a mat and saw dogs run over hills while birds sang of rivers and rain".split()  # noqa: SIM905


def text(number: int, words: int = 40) -> str:
    """A text of its own for every number."""
    picked = random.Random(number).choices(WORDS, k=words)
    return " ".join(f"{word}{random.Random(f'{number} {place}').randrange(50)}" for place, word in enumerate(picked))


def jsonl(rows: list) -> str:
    """Rows as the lines of a file; a text stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def lines_of(number: int, begin: int = 0) -> bytes:
    """A file of so many texts, which all differ."""
    return "".join(
        json.dumps({"text": f"Text number {n} of all says {n * 7919 % 1000} things, then {n * 104729 % 997} more."})
        + "\n"
        for n in range(begin, begin + number)
    ).encode()
