"""Where in a rendered conversation each assistant writes, and which control tokens are the template's.

The conversation is rendered with private marks: around the core of every message, and inside any control token that a
message holds. Taken out again, they say where each text came to stand. Where the marks change what the template writes
(it looks at how a text begins, say), or where it cuts one away (a reasoning part), the conversation is rendered once
more with another text in the turn's place, and what differs is the turn.

A turn with tool calls or reasoning, and one that follows a tool's result, begins behind what the template writes there
when it asks for it (the conversation up to it, with the generation prompt), and ends as the conversation does that is
cut off behind it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.message_shapes import in_json, parts_of, texts_of, tool_names, with_texts
from lit_llm.text.turn_format import TurnFormat

_PRIVATE = range(0xF0000, 0x10FFFE)  # code points that mean nothing in any text
_PRIVATE_CHARACTER = re.compile(f"[{chr(_PRIVATE.start)}-{chr(_PRIVATE.stop - 1)}]")

Render = Callable[[Sequence[Message]], str]


@dataclass(frozen=True)
class Renders:
    """A conversation as it stands, and with the invitation to answer."""

    closed: Render
    asked: Render


@dataclass(frozen=True)
class Span:
    """Characters ``begin`` to ``stop`` are an assistant's; or, where that cannot be known, why not."""

    begin: int = 0
    stop: int = 0
    unknown: str = ""


@dataclass(frozen=True)
class Written:
    """A conversation as the template writes it, the marks taken out.

    ``controls``: (begin, stop) of each control token that the template wrote. ``starts`` and ``stops``: where the core
    of an assistant's message begins and ends, by the message's number; its calls are of it. ``fences``: both ends of
    the others' messages. ``results``: those of them around tools' results. ``parts``: ends of a text or of a call's
    strings, by the message's number. ``thoughtful``: the numbers of messages whose reasoning is written.
    """

    text: str
    controls: list[tuple[int, int]]
    starts: dict[int, int] = field(default_factory=dict)
    stops: dict[int, int] = field(default_factory=dict)
    fences: list[int] = field(default_factory=list)
    results: int = 0
    parts: dict[int, int] = field(default_factory=dict)
    thoughtful: frozenset[int] = frozenset()
    marked: bool = True  # the marks around messages are in; else only control tokens are broken
    exact: bool = True  # it is what transformers writes

    @classmethod
    def of(cls, messages: Sequence[Message], turn_format: TurnFormat, render: Render, source: str) -> Written:
        """Renders with as many marks as leave the text as it is without."""
        plain = render(messages)
        marks = Marks.unlike(source, messages)
        try:
            found = marks.read(render([marks.around(n, m, turn_format) for n, m in enumerate(messages)]), turn_format)
        except UserError:
            found = None
        if found is not None and found.text == plain:
            return found
        found = marks.read(render([marks.broken(m, turn_format) for m in messages]), turn_format)
        return replace(found, marked=False, exact=found.text == plain)

    def going_on(self, text: str, controls: Sequence[tuple[int, int]], exact: bool = True) -> Written:
        """This text and another behind it, whose control tokens stand at ``controls`` of it."""
        length = len(self.text)
        moved = [(length + begin, length + stop) for begin, stop in controls]
        return Written(self.text + text, [*self.controls, *moved], exact=self.exact and exact)

    def behind(self, place: int) -> tuple[str, list[tuple[int, int]]]:
        """The text from ``place`` on, and where its control tokens stand in it."""
        return self.text[place:], [(begin - place, stop - place) for begin, stop in self.controls if begin >= place]

    def since_the_last_message(self, place: int) -> str | None:
        """What the template wrote between the last message before ``place`` and there; None where that is not known."""
        ends = [end for end in (*self.fences, *self.stops.values()) if end <= place]
        return self.text[max(ends) : place] if self.marked and ends else None

    def left_out(self, messages: Sequence[Message], source: str) -> str:
        """What of tools, their calls and results is not written; "" where all is."""
        marks = Marks.unlike(source, messages)
        for n, message in enumerate(messages):
            if message.role == "tools" and not all(name in self.text for name in tool_names(message)):
                return "the tools"
            if message.calls:
                said = [message.content.strip(), *(call.name for call in message.calls)]
                written = all(text in self.text for text in said)
                if not (self.parts.get(n, 0) >= marks.parts[n] if self.marked else written):
                    return f"a tool call, or the text before it (turn {n + 1})"
        results = [m.content.strip() for m in messages if m.role == "tool" and m.content.strip()]
        written = self.results >= 2 * len(results) if self.marked else all(text in self.text for text in results)
        return "" if written else "a tool's result"

    def spans(
        self,
        messages: Sequence[Message],
        turn_format: TurnFormat,
        render: Render,
        source: str,
        renders: Renders,
        first: int = 0,
    ) -> dict[int, Span]:
        """Where assistants write, by their messages' numbers from ``first`` on: generation prompt to end token.

        ``render``: what this text was rendered by.
        """
        spans: dict[int, Span] = {}
        place = 0
        for n, message in enumerate(messages):
            if message.role != "assistant" or n < first:
                continue
            if not self.marked:
                span = self._by_difference(n, messages, turn_format, render, source, place)
            elif n not in self.stops:
                span = Span(unknown="it drops or rewrites an assistant's message; use one that keeps them")
            elif message.calls or message.thoughts or (n and messages[n - 1].role == "tool"):
                span = self._by_cuts(n, messages, turn_format, render, source, renders, place)
            else:
                span = self._by_marks(n, messages, turn_format, render, source, place)
            if not span.unknown and not place <= span.begin <= span.stop:
                span = Span(unknown="it writes the messages in another order; use one that keeps it")
            elif not span.unknown and any(span.begin < fence < span.stop for fence in self.fences):
                span = Span(unknown="it writes other messages inside an assistant's; use one that does not")
            spans[n] = span
            place = place if span.unknown else span.stop
        return spans

    def stop_after(self, end: int, blanks: str, turn_format: TurnFormat) -> int:
        """Where a turn stops whose core ends at ``end``, before ``blanks`` of its own."""
        for length in range(len(blanks), -1, -1):
            if turn_format.end_text and self.text.startswith(blanks[:length] + turn_format.end_text, end):
                return end + length + len(turn_format.end_text)
            if not turn_format.end_text and not turn_format.trims_end and self.text.startswith(blanks[:length], end):
                return end + length
        return end

    def _by_marks(
        self, n: int, messages: Sequence[Message], turn_format: TurnFormat, render: Render, source: str, place: int
    ) -> Span:
        content = messages[n].content
        blanks = content[: len(content) - len(content.lstrip())]
        stop = self.stop_after(self.stops[n], content[len(content.rstrip()) :], turn_format)
        start = self.starts.get(n)
        if start is None:  # the template cut the beginning away
            found = self._by_difference(n, messages, turn_format, render, source, place)
            return found if found.unknown else replace(found, stop=stop)
        for length in range(len(blanks) + 1):
            for lead in turn_format.leads:
                before = turn_format.generation_prompt + lead + blanks[length:]
                if (begin := start - len(before)) >= place and self.text.startswith(before, begin):
                    return Span(begin + len(turn_format.generation_prompt), stop)
        return Span(start, stop)  # past turns begin otherwise than the last

    def _by_cuts(
        self,
        n: int,
        messages: Sequence[Message],
        turn_format: TurnFormat,
        render: Render,
        source: str,
        renders: Renders,
        place: int,
    ) -> Span:
        """From where the conversation before asks for the turn to where the conversation up to it ends."""
        stop = self._cut_behind(n, messages, turn_format, source, renders)
        if stop is None:
            return Span(unknown="where a turn with tool calls ends cannot be told; use a template that ends them alike")
        start, asked = self.starts.get(n), Written.of(messages[:n], turn_format, renders.asked, source)
        between = asked.since_the_last_message(len(asked.text))
        if start is not None and between is not None:
            ends = [end for end in (*self.fences, *(p for k, p in self.stops.items() if k != n)) if end <= start]
            if ends and self.text.startswith(between, max(ends)) and max(ends) + len(between) <= start:
                return Span(max(ends) + len(between), stop)
        found = self._by_difference(n, messages, turn_format, render, source, place)
        return found if found.unknown else replace(found, stop=stop)

    def _cut_behind(
        self, n: int, messages: Sequence[Message], turn_format: TurnFormat, source: str, renders: Renders
    ) -> int | None:
        """Where the turn ends: behind the last control token of the conversation that is cut off there."""
        content = messages[n].content
        if not messages[n].calls:
            return self.stop_after(self.stops[n], content[len(content.rstrip()) :], turn_format)
        try:
            cut = Written.of(messages[: n + 1], turn_format, renders.closed, source)
        except UserError:
            return None
        if n not in cut.stops:
            return None
        last = cut.stops[n]
        end = [control for control in cut.controls if control[0] >= last]
        tails = [cut.text[last : end[-1][1]], cut.text[last : end[-1][0]]] if end else [cut.text[last:].rstrip()]
        found = next((tail for tail in tails if self.text.startswith(tail, self.stops[n])), None)
        return None if found is None else self.stops[n] + len(found)

    def _by_difference(
        self, n: int, messages: Sequence[Message], turn_format: TurnFormat, render: Render, source: str, place: int
    ) -> Span:
        """What another text in the turn's place changes."""
        marks = Marks.unlike(source, messages)
        dress = marks.around if self.marked else lambda _, m, turn_format: marks.broken(m, turn_format)
        dressed = [dress(k, m, turn_format) for k, m in enumerate(messages)]
        dressed[n] = Message("assistant", marks.starts[n])
        try:
            other = marks.read(render(dressed), turn_format)
        except UserError as error:
            return Span(unknown=str(error))
        unknown = Span(unknown="where an assistant's message begins cannot be told; use a template that keeps messages")
        if n not in other.starts:
            return unknown
        begin = min(common_length(self.text, other.text), other.starts[n])
        behind = other.text[other.starts[n] :]
        lead = other.text[begin : other.starts[n]]
        if begin < place or not any((turn_format.generation_prompt + one).endswith(lead) for one in turn_format.leads):
            return unknown
        stop = self.stops.get(n, len(self.text) - len(behind))
        if not self.marked and not (stop >= begin and self.text.endswith(behind)):
            return unknown
        for one in turn_format.leads:  # what is left of a lead that the turn's own text goes on with
            for length in range(len(one), -1, -1):
                before = turn_format.generation_prompt + one[:length]
                if turn_format.generation_prompt and self.text.endswith(before, place, begin):
                    return Span(begin - length, self.stop_after(stop, "", turn_format))
        return Span(begin, self.stop_after(stop, "", turn_format))


@dataclass(frozen=True)
class Marks:
    """Characters that occur nowhere in a conversation."""

    fence: str  # around the core of a message that is no assistant's
    result: str  # the same of a tool's result
    split: str  # inside the control tokens that people wrote
    starts: dict[int, str]  # before and behind the core of an assistant's message, by the message's number
    stops: dict[int, str]
    thoughts: dict[int, str]  # before its reasoning
    parts: dict[int, int]  # how many marks stand behind its text and in its calls, where it has calls

    @classmethod
    def unlike(cls, source: str, messages: Sequence[Message]) -> Marks:
        """Private-use characters that neither the template nor the messages hold."""
        texts = (texts_of(m) for m in messages)
        used = {c for text in texts if not text.isascii() for c in _PRIVATE_CHARACTER.findall(text)}
        used |= set() if source.isascii() else set(_PRIVATE_CHARACTER.findall(source))
        free = (chr(c) for c in _PRIVATE if chr(c) not in used)
        fence, result, split = next(free), next(free), next(free)
        answers = [n for n, m in enumerate(messages) if m.role == "assistant"]
        thinking = [n for n in answers if messages[n].thoughts]
        starts, stops, thoughts = ({n: next(free) for n in some} for some in (answers, answers, thinking))
        parts = {n: parts_of(messages[n]) for n in answers if messages[n].calls}
        return cls(fence, result, split, starts, stops, thoughts, parts)

    def broken(self, message: Message, turn_format: TurnFormat) -> Message:
        """The message with a mark inside each of its control tokens."""
        return with_texts(message, lambda text: turn_format.inside.sub(lambda f: f.group() + self.split, text))

    def around(self, number: int, message: Message, turn_format: TurnFormat) -> Message:
        """The message with marks around its core too: blanks stay outside, where a template can trim them."""
        message = self.broken(message, turn_format)
        if message.role == "tools":
            return message
        content, core = message.content, message.content.strip()
        at = content.index(core) if core else len(content)
        before, behind = content[:at], content[at + len(core) :]
        if message.calls:
            message = self._around_calls(number, message, "" if core else self.starts[number])
        if message.role == "assistant":
            core = f"{self.starts[number]}{core}{self.stops[number]}" if core or not message.calls else core
        elif core:
            fence = self.result if message.role == "tool" else self.fence
            core = f"{fence}{core}{fence}"
        thoughts = f"{self.thoughts[number]}{message.thoughts}" if message.thoughts else ""
        return replace(message, content=before + core + behind, thoughts=thoughts)

    def _around_calls(self, number: int, message: Message, start: str) -> Message:
        """Marks behind a call's name and its strings; ``start`` before the first, where no text comes before it."""
        stop, calls = self.stops[number], []
        for call in message.calls:
            arguments = in_json(call.arguments, lambda text: text + stop, keys=False)
            calls.append(replace(call, name=f"{start}{call.name}{stop}", arguments=arguments))
            start = ""
        return replace(message, calls=tuple(calls))

    def read(self, text: str, turn_format: TurnFormat) -> Written:
        """The text without the marks, and where they stood."""
        names = {self.fence: ("fence", 0), self.result: ("result", 0), self.split: ("split", 0)}
        names |= {mark: ("thought", n) for n, mark in self.thoughts.items()}
        names |= {mark: ("start", n) for n, mark in self.starts.items()}
        names |= {mark: ("stop", n) for n, mark in self.stops.items()}
        found = [(f.start(), *names[f.group()]) for f in _PRIVATE_CHARACTER.finditer(text) if f.group() in names]
        places = [place for place, _, _ in found]
        kept, last = [], 0
        starts: dict[int, int] = {}
        stops: dict[int, int] = {}
        fences: list[int] = []
        parts: Counter[int] = Counter()
        for number, (place, kind, n) in enumerate(found):
            kept.append(text[last:place])
            last = place + 1
            if kind in ("fence", "result"):
                fences.append(place - number)
            elif kind == "start":
                starts.setdefault(n, place - number)
            elif kind == "stop":
                parts[n] += 1
                if parts[n] <= self.parts.get(n, parts[n]):  # beside a tool's result its name may stand again
                    stops[n] = place - number
        controls = [(f.start(), f.end()) for f in turn_format.control.finditer(text)]
        moved = [(a - (before := bisect_left(places, a)), b - before) for a, b in controls]
        results = sum(kind == "result" for _, kind, _ in found)
        thoughtful = frozenset(n for _, kind, n in found if kind == "thought")
        return Written("".join([*kept, text[last:]]), moved, starts, stops, fences, results, parts, thoughtful)


def common_length(one: str, other: str) -> int:
    """Length of what both texts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared at once: a search by halves is faster than a loop over characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
