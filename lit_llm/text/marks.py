"""Private marks in the texts of a conversation: where they stand in what a template wrote says what became of each."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lit_llm.records import Message
from lit_llm.text.message_shapes import in_json, strings_of, texts_of, with_texts
from lit_llm.text.turn_format import TurnFormat

_PRIVATE = range(0xF0000, 0x10FFFE)  # code points that mean nothing in any text
_PRIVATE_CHARACTER = re.compile(f"[{chr(_PRIVATE.start)}-{chr(_PRIVATE.stop - 1)}]")


class Mark(NamedTuple):
    """What stands where a character was put.

    ``kind``: ``fence`` both around the core of a message that is no assistant's and no tool's, ``result`` around a
    tool's; ``start`` before an assistant's core, ``stop`` behind it, and behind each name and string of its calls;
    ``thoughts`` before its reasoning; ``tool`` behind the name of a tool that can be called; ``split`` inside a control
    token that people wrote.
    """

    kind: str
    message: int = 0  # its number
    part: int = 0  # which of its texts (0: the content), or of its tools


class Found(NamedTuple):
    """A text without its marks, where its own control tokens begin and end, and the marks in order."""

    text: str
    controls: list[tuple[int, int]]
    marks: list[tuple[Mark, int]]


def marks_of(number: int, message: Message) -> list[Mark]:
    """The marks that a message gets, but for those of its control tokens."""
    if message.role == "tools":
        return [Mark("tool", number, k) for k in range(len(json.loads(message.content)))]
    if message.role != "assistant":
        kind = "result" if message.role == "tool" else "fence"
        return [Mark(kind, number)] if message.content.strip() else []
    has_text = bool(message.content.strip()) or not message.calls
    texts = sum(1 + strings_of(call.arguments) for call in message.calls)
    stops = [Mark("stop", number, part) for part in range(0 if has_text else 1, texts + 1)]
    return [Mark("start", number), *stops, *([Mark("thoughts", number)] if message.thoughts else [])]


@dataclass(frozen=True)
class Marks:
    """Characters that occur nowhere in a conversation, one for each mark."""

    letters: dict[Mark, str]

    @classmethod
    def unlike(cls, source: str, messages: Sequence[Message]) -> Marks:
        """Private-use characters that neither the template nor the messages hold."""
        texts = (texts_of(m) for m in messages)
        used = {c for text in texts if not text.isascii() for c in _PRIVATE_CHARACTER.findall(text)}
        used |= set() if source.isascii() else set(_PRIVATE_CHARACTER.findall(source))
        free = (chr(c) for c in _PRIVATE if chr(c) not in used)
        wanted = [Mark("split"), *(mark for n, m in enumerate(messages) for mark in marks_of(n, m))]
        return cls(dict(zip(wanted, free, strict=False)))

    def broken(self, number: int, message: Message, turn_format: TurnFormat) -> Message:
        """The message with a mark inside each of its control tokens, and one behind the name of each tool."""
        split = self.letters[Mark("split")]
        message = with_texts(message, lambda text: turn_format.inside.sub(lambda f: f.group() + split, text))
        if message.role != "tools":
            return message
        tools = json.loads(message.content)
        for k, tool in enumerate(tools):
            named = tool.get("function", tool)
            named["name"] = f"{named.get('name', '')}{self.letters[Mark('tool', number, k)]}"
        return replace(message, content=json.dumps(tools, ensure_ascii=False))

    def around(self, number: int, message: Message, turn_format: TurnFormat) -> Message:
        """The message with marks around its core too: blanks stay outside, where a template can trim them."""
        message = self.broken(number, message, turn_format)
        if message.role == "tools":
            return message
        content, core = message.content, message.content.strip()
        at = content.index(core) if core else len(content)
        before, behind = content[:at], content[at + len(core) :]
        if message.role == "assistant":
            start = self.letters[Mark("start", number)]
            if message.calls:
                message = self._around_calls(number, message, "" if core else start)
            if core or not message.calls:
                core = f"{start}{core}{self.letters[Mark('stop', number)]}"
        elif core:
            fence = self.letters[Mark("result" if message.role == "tool" else "fence", number)]
            core = f"{fence}{core}{fence}"
        thoughts = f"{self.letters[Mark('thoughts', number)]}{message.thoughts}" if message.thoughts else ""
        return replace(message, content=before + core + behind, thoughts=thoughts)

    def _around_calls(self, number: int, message: Message, start: str) -> Message:
        """Marks behind a call's name and its strings; ``start`` before the first, where no text comes before it."""
        calls, part = [], 0

        def stopped(text: str) -> str:
            nonlocal part
            part += 1
            return text + self.letters[Mark("stop", number, part)]

        for call in message.calls:
            name = start + stopped(call.name)
            calls.append(replace(call, name=name, arguments=in_json(call.arguments, stopped, keys=False)))
            start = ""
        return replace(message, calls=tuple(calls))

    def read(self, text: str, turn_format: TurnFormat) -> Found:
        """The text without the marks, and where they stood."""
        marks = {letter: mark for mark, letter in self.letters.items()}
        found = [(f.start(), marks[f.group()]) for f in _PRIVATE_CHARACTER.finditer(text) if f.group() in marks]
        places = [place for place, _ in found]
        kept, last = [], 0
        for place in places:
            kept.append(text[last:place])
            last = place + 1
        controls = [(f.start(), f.end()) for f in turn_format.control.finditer(text)]
        moved = [(a - (before := bisect_left(places, a)), b - before) for a, b in controls]
        where = [(mark, place - number) for number, (place, mark) in enumerate(found)]
        return Found("".join([*kept, text[last:]]), moved, where)
