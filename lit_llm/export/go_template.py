"""A chat template in Go's text/template, for ollama: found by rendering probes, never by reading the Jinja source.

Most templates write the same around every turn. What that is shows where short turns stand in the rendered text, and a
longer conversation shows whether it holds; a template of which it does not has no form here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from lit_llm.errors import UserError
from lit_llm.records import Message

Render = Callable[[Sequence[Message], bool], str]
"""A conversation as text, with the invitation to answer or without."""
_S, _Q, _A, _B = "s7w", "q7x", "a7y", "b7z"
_ASKED = (Message("user", _Q),)
_AGAIN = (*_ASKED, Message("assistant", _A), Message("user", _B))
_LONGER = (*_AGAIN, Message("assistant", "c7u"), Message("user", "d7v"))
_SYSTEM = Message("system", _S)


@dataclass(frozen=True)
class Around:
    """What stands before a turn's text, and behind it."""

    before: str
    behind: str


@dataclass(frozen=True)
class System:
    """A system message: a turn of its own, in place of what a conversation without one begins with; or before the
    text of the first user's turn, or of the last one."""

    place: Literal["turn", "first", "last"]
    around: Around


@dataclass(frozen=True)
class Turns:
    """A template that writes the same around every turn. ``system`` None: it takes no system message."""

    begin: str
    user: Around
    assistant: Around
    invitation: str
    system: System | None

    @classmethod
    def of(cls, render: Render) -> Turns | None:
        """None for a template that writes otherwise, or has what Go and ollama would take for their own marks."""
        try:
            found = _turns(render)
            holds = found is not None and found._holds(render)
        except UserError:  # it refuses an ordinary conversation
            return None
        return found if found is not None and holds and not found._has_marks() else None

    def _holds(self, render: Render) -> bool:
        systems = [(), (_SYSTEM,)] if self.system is not None else [()]
        return all(
            self.written((*first, *turns)) == render((*first, *turns), True)
            for first in systems
            for turns in (_ASKED, _AGAIN, _LONGER)
        )

    def written(self, messages: Sequence[Message]) -> str:
        """The conversation with the invitation to answer, as the Go template writes it."""
        turns = [one for one in messages if one.role != "system"]
        users = [n for n, one in enumerate(turns) if one.role == "user"]
        said, place = "\n\n".join(one.content for one in messages if one.role == "system"), None
        if self.system is not None and said:
            said, place = _wrapped(said, self.system.around), self.system.place
        inside = {"first": users[0], "last": users[-1]}.get(place or "")
        text = said if place == "turn" else self.begin
        for n, one in enumerate(turns):
            around = self.user if one.role == "user" else self.assistant
            text += _wrapped((said if n == inside else "") + one.content, around)
        return text + self.invitation

    def _has_marks(self) -> bool:
        rounds = (self.user, self.assistant, *([self.system.around] if self.system is not None else []))
        parts = (self.begin, self.invitation, *(part for one in rounds for part in (one.before, one.behind)))
        return any(part.endswith("{") or any(mark in part for mark in ("{{", "}}", '"""')) for part in parts)

    def in_go(self) -> str:
        """ollama's ``.System`` is all system messages; ``.Messages`` has them too, which are passed over."""
        place = self.system.place if self.system is not None else None
        before, behind = (self.system.around.before, self.system.around.behind) if self.system is not None else ("", "")
        head, loop, inside = self.begin, "range .Messages", ""
        if place == "turn":
            otherwise = f"{{{{ else }}}}{self.begin}" if self.begin else ""
            head = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{behind}{otherwise}{{{{ end }}}}"
        elif place == "first":  # and in no other turn: it is empty then
            head = f"{{{{ $system := .System }}}}{self.begin}"
            inside = f'{{{{ if $system }}}}{before}{{{{ $system }}}}{behind}{{{{ $system = "" }}}}{{{{ end }}}}'
        elif place == "last":
            loop = "range $n, $message := .Messages"
            last = "and $.System (eq (len (slice $.Messages $n)) 1)"
            inside = f"{{{{ if {last} }}}}{before}{{{{ $.System }}}}{behind}{{{{ end }}}}"
        return (
            f'{head}{{{{ {loop} }}}}{{{{ if eq .Role "user" }}}}'
            f"{self.user.before}{inside}{{{{ .Content }}}}{self.user.behind}"
            f'{{{{ else if eq .Role "assistant" }}}}{self.assistant.before}{{{{ .Content }}}}{self.assistant.behind}'
            f"{{{{ end }}}}{{{{ end }}}}{self.invitation}"
        )


def _turns(render: Render) -> Turns | None:
    asked, again = _parts(render(_ASKED, True), _Q), _parts(render(_AGAIN, True), _Q, _A, _B)
    if asked is None or again is None or asked != [again[0], again[3]]:
        return None
    first, answer, between, end = again
    behind_user = _shared(_behind(render, _ASKED, _Q), answer, end)
    behind_answer = _behind(render, _AGAIN[:2], _A)
    if not between.startswith(behind_answer) or not first.endswith(between.removeprefix(behind_answer)):
        behind_answer = between.removesuffix(_ending(first, between))
    before_user = between.removeprefix(behind_answer)
    user = Around(before_user, behind_user)
    return Turns(
        begin=first.removesuffix(before_user),
        user=user,
        assistant=Around(answer.removeprefix(behind_user), behind_answer),
        invitation=end.removeprefix(behind_user),
        system=_system(render, first, user),
    )


def _system(render: Render, first: str, user: Around) -> System | None:
    """Raises UserError for a template that writes it in another way than these."""
    try:
        text, longer = (render((_SYSTEM, *turns), True) for turns in (_ASKED, _AGAIN))
    except UserError:  # it refuses one
        return None
    if _S not in text:
        return None
    parts = _parts(text, _S, _Q)
    if parts is None:
        raise UserError("the system message does not stand before the user's")
    before, behind, _ = parts
    if before.startswith(first):
        place: Literal["first", "last"] = "first" if longer.find(_S) < longer.find(_A) else "last"
        return System(place, Around(before.removeprefix(first), behind))
    if not behind.endswith(user.before):
        raise UserError("what stands behind the system message is no user's turn")
    return System("turn", Around(before, behind.removesuffix(user.before)))


def _parts(text: str, *said: str) -> list[str] | None:
    """What stands around these turns; None where they do not all stand there once, in this order."""
    found = []
    for one in said:
        if text.count(one) != 1:
            return None
        part, _, text = text.partition(one)
        found.append(part)
    return [*found, text]


def _behind(render: Render, turns: Sequence[Message], last: str) -> str:
    """What ends a conversation behind its last turn."""
    return render(turns, False).rpartition(last)[2]


def _shared(wanted: str, one: str, other: str) -> str:
    """``wanted`` where both begin with it, else what they do begin with."""
    return wanted if one.startswith(wanted) and other.startswith(wanted) else _beginning(one, other)


def _beginning(one: str, other: str) -> str:
    """What both begin with."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in alike)]


def _ending(one: str, other: str) -> str:
    return _beginning(one[::-1], other[::-1])[::-1]


def _wrapped(text: str, around: Around) -> str:
    return f"{around.before}{text}{around.behind}"
