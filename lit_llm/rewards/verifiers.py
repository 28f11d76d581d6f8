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

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.base import Prompts, Reward, Rows
from lit_llm.rewards.numbers import last_number, only_number, quantity
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

    Args:
        tag: of the prompt, with the right answer; NaN where a prompt has none.
        tolerance: by how much a number may be off.
        strict: the answer must be marked by ``####`` or ``\\boxed{}``; one that is not gets 0.
    """

    row_fields = True
    tag: str

    def __init__(self, tag: str = "answer", tolerance: float = 0.0, strict: bool = False) -> None:
        if not tolerance >= 0:
            raise UserError(f"reward.tolerance: {tolerance}; must be 0 or more")
        self.tag, self.tolerance, self.strict = tag, tolerance, strict

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
        if given is None and self.strict:
            return 0.0
        number = quantity(right)
        if number is not None:
            found = last_number(text) if given is None else only_number(given)
            return float(found is not None and found.equals(number, self.tolerance))
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

    Args:
        unit: words (between white space), characters, or tokens.
        least, most: bounds, both included; None: no such bound.
        margin: from 1 at a bound to 0 this far beyond it, linearly; 0: nothing beyond.
        tokenizer: folder whose tokens are counted, for ``unit="tokens"``.
    """

    def __init__(
        self,
        unit: str = "words",
        least: int | None = None,
        most: int | None = None,
        margin: int = 0,
        tokenizer: str | None = None,
    ) -> None:
        if unit not in ("words", "characters", "tokens"):
            raise UserError(f"reward.unit: {unit}; must be words, characters or tokens")
        if least is None and most is None:
            raise UserError("reward.least, reward.most: both null; give at least one bound")
        low, high = least or 0, math.inf if most is None else most
        if low < 0 or high < low:
            raise UserError(f"reward.least={least}, reward.most={most}: least must be from 0 to most")
        if margin < 0:
            raise UserError(f"reward.margin: {margin}; must be 0 or more")
        if unit == "tokens" and tokenizer is None:
            raise UserError("reward.tokenizer: null; to count tokens, name the model's folder")
        self.unit, self.low, self.high, self.margin = unit, low, high, margin
        self.tokenizer = load_tokenizer(tokenizer) if unit == "tokens" and tokenizer is not None else None

    def __call__(self, prompts: Prompts, completions: Sequence[str]) -> list[float]:
        del prompts
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        size = self._size(text)
        beyond = max(self.low - size, size - self.high, 0)
        return max(0.0, 1 - beyond / (self.margin or 1)) if beyond < (self.margin or 1) else 0.0

    def _size(self, text: str) -> int:
        if self.tokenizer is not None:
            return len(self.tokenizer.encode(text))
        return len(text.split()) if self.unit == "words" else len(text)


class WordCount(Reward):
    """1 where an answer has exactly as many words (between white space) as its prompt asks for, else 0.

    Args:
        tag: of the prompt, with the number.
        pattern: where there is no such tag: finds the number in the user's last turn, as its first group. NaN where
            there is none either.
        partial: give ``1 - |words - n| / n`` instead, not below 0, so that nearer is better; ``latest`` then keeps the
            score without it as ``exact``, of the answers scored last.
    """

    row_fields = True
    tag: str

    def __init__(self, tag: str = "words", pattern: str = r"(\d+) words?\b", partial: bool = False) -> None:
        self.tag, self.partial = tag, partial
        self.latest: dict[str, list[float]] = {}
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"reward.pattern: {pattern} is no regular expression ({error})") from None
        if self.pattern.groups < 1:
            raise UserError(f"reward.pattern: {pattern} has no group; put the number in parentheses")

    def __call__(self, prompts: Prompts, completions: Sequence[str], *, rows: Rows) -> list[float]:
        wanted = [self._wanted(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        pairs = [(len(text.split()), n) for text, n in zip(completions, wanted, strict=True)]
        exact = [float(words == n) if n else math.nan for words, n in pairs]
        if not self.partial:
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

    Args:
        contains: texts that must occur.
        template: how the whole answer is built, with ``{names}`` for what is free (not empty), such as
            ``<think>{reasoning}</think><answer>{answer}</answer>``. White space does not count, and each of its fixed
            texts occurs only where it stands in the template.
        json: the whole answer must be JSON.
        all_or_nothing: 1 where everything holds, else 0.
    """

    def __init__(
        self,
        contains: Sequence[str] = (),
        template: str | None = None,
        json: bool = False,
        all_or_nothing: bool = False,
    ) -> None:
        if not contains and template is None and not json:
            raise UserError("reward: format asks for nothing; give contains, template or json")
        if isinstance(contains, str) or not all(contains):
            raise UserError(f"reward.contains: {contains!r}; must be a list of texts, none of them empty")
        self.contains, self.json, self.all_or_nothing = tuple(contains), json, all_or_nothing
        self.pieces = None if template is None else template_pieces(template)

    def __call__(self, prompts: Prompts, completions: Sequence[str]) -> list[float]:
        del prompts
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        held = [part in text for part in self.contains]
        held += [fits_template(text, self.pieces)] if self.pieces is not None else []
        held += [_is_json(text)] if self.json else []
        return float(all(held)) if self.all_or_nothing else sum(held) / len(held)


def template_pieces(template: str) -> list[str]:
    """The fixed texts of a template, without white space; between two of them stands something free."""
    pieces = ["".join(piece.split()) for piece in re.split(r"\{\w+\}", template)]
    if len(pieces) < 2 or not any(pieces):
        raise UserError(f"reward.template: {template!r}; needs fixed text and at least one {{name}}")
    if not all(pieces[1:-1]):
        raise UserError(f"reward.template: {template!r} has two names with nothing between them; put a text there")
    return pieces


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
