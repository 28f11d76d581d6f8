"""Rows as the model sees them: text of tokens, with what is trained marked.

A sample is a list of parts. What is trained stands in [[ ]], or in green where the reader is a terminal. A part in a
script that runs from right to left is isolated line by line (U+2068, U+2069), so that marks stay beside it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from lit_llm.data.packing import PackedRows

Decode = Callable[[Sequence[int]], str]
"""Ids to their text, control tokens too."""
FIRST, LAST = "\u2068", "\u2069"
GREEN, FAINT, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"
LONGEST = 1200  # characters of a sample


@dataclass(frozen=True)
class Part:
    """A run of text of one kind."""

    text: str
    trained: bool = False
    border: bool = False  # what is said of the row, and no text of it


def packed(rows: PackedRows, row: int, decode: Decode, between: str) -> Iterator[Part]:
    """The documents of a packed row, with a border before each but the first."""
    plan = rows.plan
    for number, piece in enumerate(range(int(plan.row_bounds[row]), int(plan.row_bounds[row + 1]))):
        document, start = int(plan.document[piece]), int(plan.start[piece])
        stop = start + int(plan.length[piece]) + 1  # the last token is a label and no input
        if number or start:
            yield Part(f"{between}{' (goes on from the row before)' if start else ''}", border=True)
        ids = np.asarray(rows.documents.tokens(document, start, stop)).tolist()
        marks = [False, *rows.documents.trained(document, start + 1, stop).tolist()]  # nothing foresees the first token
        yield from runs(ids, marks, decode)


def runs(ids: Sequence[int], trained: Sequence[bool], decode: Decode) -> Iterator[Part]:
    """Tokens as runs of those that are trained and those that are not."""
    for mark, run in groupby(zip(ids, trained, strict=True), key=lambda one: bool(one[1])):
        yield Part(decode([token for token, _ in run]), mark)


def answered(prompt: Any, answers: Iterable[tuple[str, Any]], decode: Decode) -> Iterator[Part]:
    """A prompt's tokens, and completions, each behind what is said of it."""
    yield Part(decode(np.asarray(prompt).tolist()))
    for said, completion in answers:
        yield Part(said, border=True)
        yield Part(decode(np.asarray(completion).tolist()), trained=True)


def shown(parts: Iterable[Part], *, colours: bool, longest: int = LONGEST) -> str:
    """A sample as text, cut after ``longest`` characters."""
    told: list[str] = []
    room = longest
    for part in parts:
        if room <= 0:
            told.append(_line(f"... the first {longest:,} characters", colours))
            break
        if part.border:
            told.append(_line(part.text, colours))
            continue
        text = part.text[:room]
        room -= len(part.text)
        text = isolated(text)
        told.append((f"{GREEN}{text}{PLAIN}" if colours else f"[[{text}]]") if part.trained else text)
    return "".join(told)


def _line(text: str, colours: bool) -> str:
    line = f"---- {text} ----"
    return f"\n{FAINT}{line}{PLAIN}\n" if colours else f"\n{line}\n"


def isolated(text: str) -> str:
    """The text, each of its lines that has letters of a script from right to left isolated from what stands beside."""
    return "\n".join(FIRST + line + LAST if _from_the_right(line) else line for line in text.split("\n"))


def _from_the_right(line: str) -> bool:
    return not line.isascii() and any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in line)
