"""Where in a rendered conversation each assistant writes, and which control tokens are the template's.

The conversation is rendered with private marks (``marks.py``): around the core of every message, and inside any control
token that a message holds. Taken out again, they say where each text came to stand. Where the marks change what the
template writes (it looks at how a text begins, say), or where it cuts one away (a reasoning part), the conversation is
rendered once more with another text in the turn's place, and what differs is the turn.

A turn with tool calls or reasoning, and one that follows a tool's result, begins behind what the template writes there
when it asks for it (the conversation up to it, with the generation prompt), and ends as the conversation does that is
cut off behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.marks import Found, Mark, Marks, marks_of
from lit_llm.text.message_shapes import thoughts_of
from lit_llm.text.turn_format import TurnFormat

REASONS = "a turn with reasoning does not begin as its generation prompt ends; use a template that asks for reasoning"
Render = Callable[[Sequence[Message]], str]
Said = tuple[str, str]
"""What an assistant writes in a turn, and the control token in which it ends ("" for none)."""


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
    the others' messages. ``first``: where each mark stands first.
    """

    text: str
    controls: list[tuple[int, int]]
    starts: dict[int, int] = field(default_factory=dict)
    stops: dict[int, int] = field(default_factory=dict)
    fences: list[int] = field(default_factory=list)
    first: dict[Mark, int] = field(default_factory=dict)
    marked: bool = True  # the marks around messages are in; else only control tokens are broken
    exact: bool = True  # it is what transformers writes

    @classmethod
    def of(cls, messages: Sequence[Message], turn_format: TurnFormat, render: Render, source: str) -> Written:
        """Renders with as many marks as leave the text as it is without."""
        plain = render(messages)
        marks = Marks.unlike(source, messages)
        try:
            dressed = [marks.around(n, m, turn_format) for n, m in enumerate(messages)]
            found = cls.marked_by(marks.read(render(dressed), turn_format), messages)
        except UserError:
            found = None
        if found is not None and found.text == plain:
            return found
        dressed = [marks.broken(n, m, turn_format) for n, m in enumerate(messages)]
        found = cls.marked_by(marks.read(render(dressed), turn_format), messages)
        return replace(found, marked=False, exact=found.text == plain)

    @classmethod
    def marked_by(cls, found: Found, messages: Sequence[Message]) -> Written:
        """What the marks say of the messages. A text that is written twice counts as written last; a call, first: the
        name of a tool may stand again beside its result.
        """
        starts: dict[int, int] = {}
        stops: dict[int, int] = {}
        first: dict[Mark, int] = {}
        for mark, place in found.marks:
            is_new = mark not in first
            first.setdefault(mark, place)
            if mark.kind == "start":
                starts.setdefault(mark.message, place)
            elif mark.kind == "stop" and (is_new or not messages[mark.message].calls):
                stops[mark.message] = place
        fences = [place for mark, place in found.marks if mark.kind in ("fence", "result")]
        return cls(found.text, found.controls, starts, stops, fences, first)

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

    def left_out(self, messages: Sequence[Message], first: int = 0) -> str:
        """What of tools, their calls and results is not written, from the message ``first`` on; "" where all is."""
        for n, message in enumerate(messages[first:], start=first):
            missing = [mark for mark in marks_of(n, message) if mark not in self.first]
            if message.role == "tools" and missing:
                return "the tools"
            if message.calls:
                said = [message.content.strip(), *(call.name for call in message.calls)]
                written = all(text in self.text for text in said)
                if any(mark.kind == "stop" for mark in missing) if self.marked else not written:
                    return f"a tool call, or the text before it (turn {n + 1})"
            if message.role == "tool" and (missing if self.marked else message.content.strip() not in self.text):
                return "a tool's result"
        return ""

    def end_of(self, span: Span) -> str:
        """The control token in which what an assistant writes ends; "" for none."""
        return next((self.text[a:b] for a, b in self.controls if a >= span.begin and b == span.stop), "")

    def _with_end(self, span: Span) -> Span:
        """The span up to the next control token, where it ends in none and but blanks stand before that."""
        following = next((control for control in self.controls if control[0] >= span.stop), None)
        if self.end_of(span) or following is None or self.text[span.stop : following[0]].strip():
            return span
        return replace(span, stop=following[1])

    def _calls_first(self, n: int) -> bool:
        """Whether a turn's calls are written before its text or its reasoning."""
        calls = [place for mark, place in self.first.items() if mark[:2] == ("stop", n) and mark.part]
        others = [self.first.get(mark, -1) for mark in (Mark("stop", n), Mark("thoughts", n))]
        return bool(calls) and max(others) > min(calls)

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
            elif not span.unknown and message.calls and self._calls_first(n):
                span = Span(unknown="it writes the text or the reasoning of a turn behind its calls; leave it out")
            span = span if span.unknown else self._with_end(span)
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
        prompt = turn_format.generation_prompt
        for length in range(1, len(prompt)):  # the turn's own text begins as the prompt ends (<think>)
            begin = start - length
            if begin >= place and prompt[length:].strip() and self.text.startswith(prompt, begin):
                return Span(begin + len(prompt), max(stop, begin + len(prompt)))
        # Past turns may begin otherwise than the last; one that reasons is written in full.
        return Span(unknown=REASONS) if thoughts_of(messages[n]) else Span(start, stop)

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
            if turn_format.unwritten_prompt:
                return Span(unknown="a turn with tool calls begins otherwise than an answer, and it asks for neither")
            if ends and Mark("thoughts", n) in self.first:  # what is cut of it would be its beginning
                return Span(unknown=REASONS)
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
        if len(end) > 1 and (turn_format.unwritten_prompt or not turn_format.generation_prompt):
            return None  # a template that asks without being told to: which of these tokens ask is not known
        tails = [cut.text[last : end[-1][1]], cut.text[last : end[-1][0]]] if end else [cut.text[last:].rstrip()]
        found = next((tail for tail in tails if self.text.startswith(tail, self.stops[n])), None)
        return None if found is None else self.stops[n] + len(found)

    def _by_difference(
        self, n: int, messages: Sequence[Message], turn_format: TurnFormat, render: Render, source: str, place: int
    ) -> Span:
        """What another text in the turn's place changes."""
        marks = Marks.unlike(source, messages)
        dress = marks.around if self.marked else marks.broken
        dressed = [dress(k, m, turn_format) for k, m in enumerate(messages)]
        dressed[n] = Message("assistant", marks.letters[Mark("start", n)])
        try:
            other = Written.marked_by(marks.read(render(dressed), turn_format), messages)
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


def common_length(one: str, other: str) -> int:
    """Length of what both texts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared at once: a search by halves is faster than a loop over characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def alike_as_last(said: Said | None, last: Said | None, *, whole: bool) -> bool:
    """Whether a turn ends as it does when it is the last, where a template may write no end; or reads so, as a whole.

    A turn without a control token at its end is like no last one, to which one is added.
    """
    if said is None or last is None:
        return said == last
    end = said[1] and last[1] in ("", said[1])
    return bool(end) and (not whole or said[0] == last[0] or (not last[1] and said[0].startswith(last[0])))


def behind_thoughts(invitation: str, content: str) -> str | None:
    """What is left of an answer that begins as the generation prompt ends (``<think>``); None for any other."""
    core = content.lstrip()
    blanks = invitation[len(invitation.rstrip()) :]
    for place in range(len(invitation) - len(blanks)):
        if core.startswith(begun := invitation[place:].rstrip()) and begun == begun.lstrip():
            rest = core[len(begun) :]
            return rest[common_length(rest, blanks) :]
    return None
