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
