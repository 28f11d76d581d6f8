"""Rewards that a program can verify, from 0 to 1; NaN where there is nothing to verify an answer by.

A verifier with ``row_fields`` is called with ``rows`` too, the tags of each prompt: the answer to a problem, the number
of words that is asked for. Its ``tag`` names the one that it reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from lit_llm.records import Message
from lit_llm.rewards.base import Prompts, Reward, Rows
from lit_llm.rewards.numbers import last_number, only_number, quantity
from lit_llm.rewards.options import ExactAnswerOptions, FormatOptions, LengthOptions, WordCountOptions, compiled
from lit_llm.text.tokenizer import load_tokenizer

MARKER = "####"  # before the final answer in GSM8K (arXiv:2110.14168)
_EDGES = " \t\r\n.,;:?\"'`*$"
_EXCLAMATION = re.compile(r"(?<=[^\W\d_]{2})!+$")  # 3! and n! are factorials
_IN_PARENTHESES = re.compile(r"\(([^()\[\],]*)\)")  # (B), not the pair (1, 2)


class ExactAnswer(Reward):
    """1 where the final answer is the right one, else 0: GSM8K, MATH and the like.

    The final answer is what stands in the last ``\\boxed{}`` or behind the last ``####``, or else the last line. Where
    the right answer is a number, with or without a unit in words, a marked answer must hold exactly one number and
    otherwise words only, and of an unmarked one the last number counts; numbers are compared exactly (1,000.0 is 1000;
    0.5 is 1/2 and 50%), whatever their currency or unit. A number inside a term (``5x``, ``x^2``, ``3!``) is none. All
    other answers (``Apollo 11``, ``3\\pi``) are compared as texts without case, white space and punctuation at their
    ends.

    Options: ``ExactAnswerOptions``.
    """

    row_fields = True
    tag: str

    Options: ClassVar[type[ExactAnswerOptions]] = ExactAnswerOptions

    def __init__(self, options: ExactAnswerOptions | None = None, **values: Any) -> None:
        self.options = ExactAnswerOptions.of(options, values)
        self.tag = self.options.tag

    def __call__(self, prompts: Prompts, completions: Sequence[str], *, rows: Rows) -> list[float]:
        del prompts
        return [self._score(text, row.get(self.tag)) for text, row in zip(completions, rows, strict=True)]

    def _score(self, text: str, right: str | None) -> float:
        if right is None:
            return math.nan
        final = marked(right)
        right = right if final is None else final
        if not _plain(right):
            return math.nan
        given = marked(text)
        if given is None and self.options.strict:
            return 0.0
        number = quantity(right)
        if number is not None:
            found = last_number(text) if given is None else only_number(given)
            return float(found is not None and found.equals(number, self.options.tolerance))
        lines = text.strip().splitlines() or [""]
        return float(_plain(lines[-1] if given is None else given) == _plain(right))


def marked(text: str) -> str | None:
    """What stands in the last ``\\boxed{}`` (braces may be nested), or on the line behind the last ``####``."""
    at = text.rfind("\\boxed{")
    if at >= 0:
        begin, depth = at + len("\\boxed{"), 1
        for place in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[begin:place].strip()
    _, mark, behind = text.rpartition(MARKER)
    return behind.strip().split("\n", 1)[0].strip() if mark else None


def _plain(text: str) -> str:
    """The text without case and what may stand around it; brackets and ``!`` stay where they can be mathematics."""
    text = _EXCLAMATION.sub("", text.strip(_EDGES)).strip(_EDGES)
    inside = _IN_PARENTHESES.fullmatch(text)
    return " ".join((inside[1].strip(_EDGES) if inside else text).casefold().split())


class Length(Reward):
    """1 where the answer is ``least`` to ``most`` long, else 0; nearer is better within ``margin``.

    Options: ``LengthOptions``.
    """

    Options: ClassVar[type[LengthOptions]] = LengthOptions

    def __init__(self, options: LengthOptions | None = None, **values: Any) -> None:
        self.options = LengthOptions.of(options, values)
        self.low, self.high = self.options.bounds()
        folder = self.options.tokenizer
        self.tokenizer = load_tokenizer(folder) if self.options.unit == "tokens" and folder is not None else None

    def __call__(self, prompts: Prompts, completions: Sequence[str]) -> list[float]:
        del prompts
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        size = self._size(text)
        beyond = max(self.low - size, size - self.high, 0)
        return max(0.0, 1 - beyond / (self.options.margin or 1)) if beyond < (self.options.margin or 1) else 0.0

    def _size(self, text: str) -> int:
        if self.tokenizer is not None:
            return len(self.tokenizer.encode(text))
        return len(text.split()) if self.options.unit == "words" else len(text)


class WordCount(Reward):
    """1 where an answer has exactly as many words (between white space) as its prompt asks for, else 0.

    Options: ``WordCountOptions``.
    """

    row_fields = True
    tag: str

    Options: ClassVar[type[WordCountOptions]] = WordCountOptions

    def __init__(self, options: WordCountOptions | None = None, **values: Any) -> None:
        self.options = WordCountOptions.of(options, values)
        self.tag, self.pattern = self.options.tag, compiled(self.options.pattern)
        self.latest: dict[str, list[float]] = {}

    def __call__(self, prompts: Prompts, completions: Sequence[str], *, rows: Rows) -> list[float]:
        wanted = [self._wanted(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        pairs = [(len(text.split()), n) for text, n in zip(completions, wanted, strict=True)]
        exact = [float(words == n) if n else math.nan for words, n in pairs]
        if not self.options.partial:
            return exact
        self.latest = {"exact": exact}
        return [max(0.0, 1 - abs(words - n) / n) if n else math.nan for words, n in pairs]

    def _wanted(self, prompt: Sequence[Message], row: Mapping[str, str]) -> int:
        told = row.get(self.tag)
        if told is None:
            found = self.pattern.search(prompt[-1].content)
            told = found[1] if found else None
        return int(told) if told is not None and told.strip().isdecimal() and len(told) < 10 else 0


class Format(Reward):
    """The share of what is asked of an answer's form that holds: each text it contains, its template, JSON.

    Options: ``FormatOptions``.
    """

    Options: ClassVar[type[FormatOptions]] = FormatOptions

    def __init__(self, options: FormatOptions | None = None, **values: Any) -> None:
        self.options = FormatOptions.of(options, values)
        self.pieces = self.options.pieces()

    def __call__(self, prompts: Prompts, completions: Sequence[str]) -> list[float]:
        del prompts
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        held = [part in text for part in self.options.contains]
        held += [fits_template(text, self.pieces)] if self.pieces is not None else []
        held += [_is_json(text)] if self.options.json else []
        return float(all(held)) if self.options.all_or_nothing else sum(held) / len(held)


def fits_template(text: str, pieces: Sequence[str]) -> bool:
    """Whether a text is the pieces in their order, with something that is not blank between each two of them."""
    text, fixed = "".join(text.split()), "\0".join(pieces)
    if not (text.startswith(pieces[0]) and text.endswith(pieces[-1])):
        return False
    if any(text.count(piece) != fixed.count(piece) for piece in pieces if piece):
        return False
    ends, at = [], 0
    for piece in pieces[:-1]:
        begin = text.find(piece, at)
        if begin < 0:
            return False
        at = begin + len(piece)
        ends.append((begin, at))
    ends.append((len(text) - len(pieces[-1]), len(text)))
    return all(one[1] < two[0] for one, two in pairwise(ends))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
