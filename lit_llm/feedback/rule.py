"""What a good answer is, written down: the taste that the simulated annotators share, until people rank answers.

The rule looks at the form of an answer and at whether it is about what was asked. It knows nothing of facts. It is made
to be learnt from rankings and to be improved by reinforcement learning without reward for degenerate text: repetition,
copies of the question, empty and endless answers score near 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from lit_llm.records import Message

WEIGHTS = {"on_topic": 0.30, "length": 0.15, "ending": 0.15, "beginning": 0.20, "prose": 0.20}
SHORT, GOOD_FROM, GOOD_TO, LONG = 2, 8, 20, 50  # words; "longer is better" must not be all there is to learn

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
CODE_NAME = re.compile(r"[^\W\d]\w*(?:\.\w+)+|[^\W\d]\w*(?=\()|[^\W\d]\w*_\w+|\b[^\W\d_]+[a-z][A-Z]\w*")
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+")
_PROSE = re.compile(r"[^\W_]|[ .,;'’()-]")
_ENDS = (".", "!", "?", "؟", "。", "।", "…")
_COMMON_WORDS = """
about and are can does explain find for from give have here how into its look might purpose sentence signature
something tell that the there this use used what when where which who why will with word words would you your
"""
_COMMON = frozenset(_COMMON_WORDS.split())


class Marks(NamedTuple):
    """The parts of the rule, each 0 to 1."""

    on_topic: float  # names what was asked about
    length: float  # 8 to 20 words are full marks
    ending: float  # ends as a sentence
    beginning: float  # begins as a sentence
    prose: float  # plain words, not code or layout
    fresh: float  # says something that the question does not: a factor
    varied: float  # does not repeat itself: a factor
    sized: float  # neither next to nothing nor endless: a factor


def rule(messages: Sequence[Message], completion: str) -> float:
    """How good ``completion`` is as the answer to ``messages``, 0 to 1."""
    found = marks(messages, completion)
    value = sum(weight * getattr(found, name) for name, weight in WEIGHTS.items())
    return float(found.fresh * found.varied * found.sized * value)


def reward(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[float]:
    """The rule for many: what evaluations and reinforcement learning call."""
    return [rule(messages, text) for messages, text in zip(prompts, completions, strict=True)]


def marks(messages: Sequence[Message], completion: str) -> Marks:
    """The rule's parts one by one."""
    text = completion.strip()
    words = [word.lower() for word in _WORD.findall(text)]
    asked = {word.lower() for message in messages for word in _WORD.findall(message.content)}
    asked |= {piece for message in messages for piece in pieces_of(message.content)}
    return Marks(
        on_topic=_on_topic(messages, words),
        length=_length(len(words)),
        ending=float(text.rstrip("\"'”’)»").endswith(_ENDS)),
        beginning=float(text[:1].isalpha() and not text[:1].islower()),
        prose=_ramp(len(_PROSE.findall(text)) / max(len(text), 1), 0.8, 1.0),
        fresh=_ramp(len(set(words) - asked) / max(len(set(words)), 1), 0.0, 0.4),
        varied=_varied(words),
        sized=min(_ramp(len(words), SHORT, SHORT + 3), 1 - _ramp(len(words), LONG - 20, LONG)),
    )


def topic(messages: Sequence[Message]) -> list[str]:
    """The words that were asked about: the parts of names like ``os.path.join``, else the question's longer words."""
    names = [name for message in messages if message.role == "user" for name in CODE_NAME.findall(message.content)]
    parts = [piece for name in names for piece in pieces_of(".".join(name.split(".")[-2:]))]
    if not parts:
        last = next((m.content for m in reversed(messages) if m.role == "user"), "")
        parts = [word.lower() for word in _WORD.findall(last)]
    return list(dict.fromkeys(part for part in parts if len(part) > 2 and part not in _COMMON))


def _on_topic(messages: Sequence[Message], words: Sequence[str]) -> float:
    """The share of up to three of the topic's words that the answer takes up, in whatever form (close, closes)."""
    wanted = topic(messages)
    if not wanted:
        return 1.0
    taken = sum(any(_alike(word, part) for word in words) for part in wanted)
    return min(1.0, taken / min(3, len(wanted)))


def _alike(word: str, part: str) -> bool:
    stem = min(len(part), len(word), 5)
    return stem > 2 and word[:stem] == part[:stem] and abs(len(word) - len(part)) <= 4


def _length(words: int) -> float:
    return min(_ramp(words, SHORT, GOOD_FROM), 1 - _ramp(words, GOOD_TO, LONG))


def _varied(words: Sequence[str]) -> float:
    """1 while nearly every pair of neighbouring words is new, 0 from half of them on."""
    pairs = list(pairwise(words))
    if not pairs:
        return 1.0
    distinct = len(set(pairs)) / len(pairs)
    return _ramp(distinct, 0.5, 0.9) * _ramp(len(set(words)) / len(words), 0.2, 0.6)


def pieces_of(text: str) -> list[str]:
    """The words within the names of code, in small letters: ``readLine_fast`` is read, line, fast."""
    return [piece.lower() for piece in _PIECE.findall(text)]


def _ramp(x: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, straight between."""
    return min(1.0, max(0.0, (x - low) / (high - low)))
