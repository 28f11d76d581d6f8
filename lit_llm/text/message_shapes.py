"""How a chat template takes tool calls, their results and reasoning: found by rendering probes.

Templates differ in what they read: arguments as an object or as a text, a call's text as empty or as none, ids of a
fixed form. What they are given is what they write out whole; where nothing is, they are given transformers' usual form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from typing import Any

from lit_llm.errors import UserError
from lit_llm.records import Message, ToolCall

Given = list[dict[str, Any]]
RenderGiven = Callable[[Given, Given | None], str]
"""Messages and tools, as a template is given them, to text."""

_ID = re.compile(r"[A-Za-z0-9]{9}")
_SAFE_ID = re.compile(r"[\w.:-]+")
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "n3w",
        "description": "d8x",
        "parameters": {
            "type": "object",
            "properties": {"k4v": {"type": "string", "description": "d9x"}},
            "required": ["k4v"],
        },
    },
}
_ASKED, _ANSWER = Message("user", "q7x"), Message("assistant", "a7y")


@dataclass(frozen=True)
class MessageShape:
    """What a template is given."""

    arguments_as_text: bool = False  # a string of JSON, which it writes as it is
    no_content: bool = False  # the content of a call without a text is none, which it looks for
    ids: bool = False  # every call has an id
    short_ids: bool = False  # of nine letters and digits (Mistral)
    reasoning: bool = False  # it writes reasoning that stands apart from the content
    reasoning_with_calls: bool = False  # the same of a turn with calls

    @classmethod
    def of(cls, render: RenderGiven) -> MessageShape:
        found = cls()
        for no_content, as_text, ids in product((False, True), (False, True), (False, True)):
            shape = cls(as_text, no_content, ids)
            if _writes_calls(shape, render, "abcde0123"):
                found = shape
                break
        named = _writes_calls(replace(found, ids=True), render, "call_1")
        short = not named and _writes_calls(replace(found, ids=True), render, "abcde0123")
        found = replace(found, ids=found.ids or short, short_ids=short)
        with_calls = _writes_thoughts(found, render, _called(found, "abcde0123"))
        return replace(found, reasoning=_writes_thoughts(found, render, _ANSWER), reasoning_with_calls=with_calls)

    def readable(self, message: Message) -> Message:
        """The message with its reasoning where the template reads it: apart from the content, or in it."""
        if message.role != "assistant":
            return message
        reads = self.reasoning_with_calls if message.calls else self.reasoning
        return apart(message) if reads else in_content(message)

    def given(self, messages: Sequence[Message]) -> tuple[Given, Given | None]:
        """Messages and tools for the template. Calls without ids, and their results, are matched by their order.

        Results come in the order of their calls: many templates write no ids.
        """
        tools = [tool for m in messages if m.role == "tools" for tool in json.loads(m.content)]
        written: Given = []
        names: dict[str, str] = {}
        waiting: list[str] = []
        for message in in_order_of_calls(messages):
            if message.role == "tools":
                continue
            if message.plain:
                written.append({"role": message.role, "content": message.content})
                continue
            one: dict[str, Any] = {"role": message.role, "content": message.content}
            if message.name:
                one["name"] = message.name
            if message.thoughts:  # the names that templates read it by
                one |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.thoughts)
            if message.calls:
                ids = [self._id(call.id, names) for call in message.calls]
                waiting = [known for known in ids if known]
                one["content"] = None if self.no_content and not message.content else message.content
                one["tool_calls"] = [self._call(*pair) for pair in zip(message.calls, ids, strict=True)]
            if message.role == "tool" and (known := self._answered(message.call_id, names, waiting)):
                one["tool_call_id"] = known
            written.append(one)
        return written, tools or None

    def _id(self, said: str, names: dict[str, str]) -> str:
        """The id that a call is given, which ``names`` keeps; one that could pass for more than a name is not kept."""
        unfit = said and not (_ID if self.short_ids else _SAFE_ID).fullmatch(said)
        if unfit or (self.ids and not said):
            taken = {*names, *names.values()}
            made = next(one for n in count(len(names)) if (one := f"call{n:05d}") not in taken)
            names[said or made] = made
            return made
        names[said] = said
        return said

    def _answered(self, said: str, names: dict[str, str], waiting: list[str]) -> str:
        known = names.get(said) or (waiting[0] if waiting else said if _SAFE_ID.fullmatch(said) else "")
        if known in waiting:
            waiting.remove(known)
        return known

    def _call(self, call: ToolCall, known: str) -> dict[str, Any]:
        arguments = call.arguments if self.arguments_as_text else json.loads(call.arguments)
        made = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
        return {"id": known, **made} if known else made


def _writes_calls(shape: MessageShape, render: RenderGiven, name: str) -> bool:
    """Whether a call's argument comes out, and not in Python's way of writing it or as a text inside a text."""
    call = _called(shape, name)
    result = Message("tool", "r6t", name="n3w", call_id=name if shape.ids else "")
    try:
        text = render(*_with_tool(shape.given((_ASKED, call, result))))
    except UserError:
        return False
    return "v5u" in text and "'k4v'" not in text and '\\"v5u' not in text


def _called(shape: MessageShape, name: str) -> Message:
    return Message("assistant", "", calls=(ToolCall("n3w", '{"k4v": "v5u"}', name if shape.ids else ""),))


def _writes_thoughts(shape: MessageShape, render: RenderGiven, message: Message) -> bool:
    given = shape.given((_ASKED, replace(message, thoughts="t2s")))
    try:
        return "t2s" in render(*(_with_tool(given) if message.calls else given))
    except UserError:
        return False


def in_order_of_calls(messages: Sequence[Message]) -> list[Message]:
    """The messages with each run of results in the order of the calls that they answer, where their ids say which."""
    found: list[Message] = []
    order: dict[str, int] = {}
    run: list[Message] = []
    for message in [*messages, None]:
        if message is not None and message.role == "tool":
            run.append(message)
            continue
        if run and all(one.call_id in order for one in run):
            run.sort(key=lambda one: order[one.call_id])
        found += run
        run = []
        if message is not None:
            order = {call.id: n for n, call in enumerate(message.calls) if call.id}
            found.append(message)
    return found


def _with_tool(given: tuple[Given, Given | None]) -> tuple[Given, Given]:
    return given[0], [_TOOL]


def in_content(message: Message) -> Message:
    """The message with its reasoning written into its content, as most models write it."""
    if not message.thoughts:
        return message
    written = f"<think>\n{message.thoughts.strip()}\n</think>\n\n{message.content}"
    return replace(message, content=written, thoughts="")


def apart(message: Message) -> Message:
    """The message with the reasoning that its content begins with beside the content: what ``in_content`` undoes."""
    head, closed, rest = message.content.partition("</think>")
    head = head.lstrip()
    if message.thoughts or not closed or not head.startswith("<think>"):
        return message
    return replace(message, content=rest.lstrip(), thoughts=head.removeprefix("<think>").strip())


def thoughts_of(message: Message) -> str:
    """The reasoning of an assistant's turn, wherever it stands."""
    if message.thoughts or "</think>" not in message.content:
        return message.thoughts.strip()
    return message.content.split("</think>")[0].split("<think>")[-1].strip()


def texts_of(message: Message) -> str:
    """All that a message holds, to look for characters in it."""
    if message.plain:
        return message.content
    calls = (part for call in message.calls for part in (call.name, call.arguments, call.id))
    return "\0".join((message.content, message.thoughts, message.name, message.call_id, *calls))


def strings_of(arguments: str) -> int:
    """How many strings the values of a call's arguments have, at any depth."""
    return _strings(json.loads(arguments))


def _strings(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(_strings, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str)


def with_texts(message: Message, change: Callable[[str], str]) -> Message:
    """The message with each of its texts changed: content, reasoning, names, ids, and the strings inside of JSON."""
    if message.plain:
        return replace(message, content=change(message.content))
    content = in_json(message.content, change) if message.role == "tools" else change(message.content)
    calls = tuple(
        replace(c, name=change(c.name), arguments=in_json(c.arguments, change), id=change(c.id)) for c in message.calls
    )
    return replace(
        message,
        content=content,
        thoughts=change(message.thoughts),
        name=change(message.name),
        calls=calls,
        call_id=change(message.call_id),
    )


def in_json(text: str, change: Callable[[str], str], *, keys: bool = True) -> str:
    """JSON with each of its strings changed. Letters of any script stay what they are."""
    return json.dumps(_changed(json.loads(text), change, keys), ensure_ascii=False)


def _changed(value: Any, change: Callable[[str], str], keys: bool) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key) if keys else key: _changed(one, change, keys) for key, one in value.items()}
    return [_changed(one, change, keys) for one in value] if isinstance(value, list) else value
