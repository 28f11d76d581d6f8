"""Tools, their calls and results, and reasoning, from the shapes that data sets have: OpenAI's and sharegpt's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_llm.data.row_errors import RowError, in_json
from lit_llm.data.row_keys import check_part
from lit_llm.data.row_keys import empty as says_nothing
from lit_llm.records import Message, ToolCall

TOOLS = ("tools", "functions")
"""A row's own list of what can be called, beside its messages or its prompt."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
OF_TURNS = ("name", "tool_calls", "function_call", "tool_call_id", *THOUGHTS)
"""Keys of a message that say more than its role and content."""
CALLING = ("function_call", "tool_call")
"""Roles of sharegpt whose text is a call in JSON."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of a content's parts that are texts."""
_MEDIA_PARTS = (
    "image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url", "file",
    "input_file", "document",
)  # fmt: skip
_THOUGHT_PARTS = ("thinking", "reasoning")
TOOL_PARTS = ("tool_use", "tool_call", "function_call", "tool_result")
"""Types of a content's parts that belong elsewhere in a message."""
_TAGS = ("<think>", "</think>")
_SHAPE = 'an object with name and arguments is needed, such as {"name": "weather", "arguments": {"city": "Oslo"}}'


def tools_of(value: Mapping[str, Any], where: str) -> list[Message]:
    """The message that lists a row's tools, where it has any: objects with a name, or a JSON text of such.

    Each becomes ``{"type": "function", "function": ...}``, which templates read.
    """
    keys = [key for key in TOOLS if not says_nothing(value.get(key))]
    if not keys:
        return []
    if len(keys) > 1:
        raise RowError("wrong_type", f"{where}: 'tools' and 'functions' both list tools; one is needed")
    key, listed = keys[0], value[keys[0]]
    listed = _parsed(listed, key, where, "a list of tools") if isinstance(listed, str) else listed
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(listed)}; a list of tools is needed")
    found = [_tool(one, f"{key}[{n}]", where) for n, one in enumerate(listed)]
    return [Message("tools", _written(found, key, where))]


def _tool(value: Any, key: str, where: str) -> dict[str, Any]:
    value = _parsed(value, key, where, "an object") if isinstance(value, str) else value
    wrapped = isinstance(value, Mapping) and isinstance(value.get("function"), Mapping)
    function = value["function"] if wrapped else value
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; an object with the tool's name is needed")
    kind = value.get("type")
    if kind not in (None, "", "function"):
        raise RowError("wrong_type", f"{where}: '{key}' is of type {str(kind)[:30]!r}; function is what can be called")
    if wrapped:
        return dict(value)
    return {"type": "function", "function": {name: one for name, one in function.items() if name != "type"}}


def calls_of(value: Mapping[str, Any], key: str, where: str) -> tuple[ToolCall, ...]:
    """What a message calls: ``tool_calls``, or ``function_call`` of OpenAI's first form."""
    listed = value.get("tool_calls")
    if not says_nothing(value.get("function_call")):
        if not says_nothing(listed):
            raise RowError("wrong_type", f"{where}: '{key}' has tool_calls and function_call; one is needed")
        return (_call(value["function_call"], f"{key}.function_call", where),)
    if says_nothing(listed):
        return ()
    key = f"{key}.tool_calls"
    listed = _parsed(listed, key, where, "a list of calls") if isinstance(listed, str) else listed
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(listed)}; a list of calls is needed")
    return tuple(_call(one, f"{key}[{n}]", where) for n, one in enumerate(listed))


def called(text: str, key: str, where: str) -> tuple[ToolCall, ...]:
    """The calls of a sharegpt turn: a JSON object, or a list of them."""
    found = _parsed(text, key, where, "a call in JSON")
    listed = found if isinstance(found, list) else [found]
    if not listed:
        raise RowError("empty_turn", f"{where}: '{key}' is an empty list; it needs a call")
    return tuple(_call(one, key, where) for one in listed)


def _call(value: Any, key: str, where: str) -> ToolCall:
    """OpenAI's ``{"id": ..., "type": "function", "function": {...}}``, or what stands in its ``function`` alone."""
    if not isinstance(value, Mapping):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; {_SHAPE}")
    kind = value.get("type")
    if kind not in (None, "", "function"):
        raise RowError("wrong_type", f"{where}: '{key}' is of type {str(kind)[:30]!r}; function is what is called")
    inner = value.get("function")
    wrapped = isinstance(inner, Mapping)
    function: Mapping[str, Any] = inner if isinstance(inner, Mapping) else value
    given = "parameters" if "parameters" in function and "arguments" not in function else "arguments"
    own = ("name", given)
    check_part(value, ("id", "type", "index", "function") if wrapped else ("id", "type", "index", *own), where, key)
    if wrapped:
        check_part(function, own, where, f"{key}.function")
    name, arguments = function.get("name"), function.get(given)
    if not isinstance(name, str) or not name.strip():
        raise RowError("wrong_type", f"{where}: '{key}' has the name {str(name)[:30]!r}; {_SHAPE}")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments, f"{key}.{given}", where, "an object in JSON")
    if says_nothing(arguments) and not isinstance(arguments, Mapping):
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise RowError("wrong_type", f"{where}: '{key}.{given}' is {_kind(arguments)}; an object is needed")
    known = value.get("id")
    return ToolCall(name, _written(arguments, f"{key}.{given}", where), "" if known is None else str(known))


def reasoning_of(value: Mapping[str, Any], key: str, where: str) -> str:
    """The reasoning beside a message's content, under one of ``THOUGHTS``, without ``<think>`` tags around it."""
    said = {name: value[name] for name in THOUGHTS if not says_nothing(value.get(name))}
    for name, text in said.items():
        if not isinstance(text, str):
            raise RowError("wrong_type", f"{where}: '{key}.{name}' is {_kind(text)}; a text is needed")
    if len({text.strip() for text in said.values()}) > 1:
        raise RowError("wrong_type", f"{where}: '{key}' has different texts in {' and '.join(said)}; one is needed")
    name, text = next(((name, str(text).strip()) for name, text in said.items()), ("", ""))
    opened, closed = _TAGS
    if text.startswith(opened) and text.endswith(closed):
        text = text[len(opened) : -len(closed)].strip()
    if any(tag in text for tag in _TAGS):
        raise RowError("wrong_type", f"{where}: '{key}.{name}' has <think> or </think> inside; leave the tags out")
    return text


def without_thoughts(content: Any, key: str, where: str) -> tuple[Any, str]:
    """A content without the parts of it that are reasoning, and what these say: {"type": "thinking", "thinking": ...},
    whose text may be a list of parts itself."""
    parts = content if isinstance(content, list) else []
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in parts]
    said: list[str] = []
    for number, (part, kind) in enumerate(zip(parts, kinds, strict=True)):
        if kind not in _THOUGHT_PARTS:
            continue
        place = f"{key}[{number}]"
        check_part(part, ("type", kind, "text", "signature"), where, place)
        if any(one not in _THOUGHT_PARTS for one in kinds[:number]):
            raise RowError("wrong_type", f"{where}: '{place}' is reasoning behind the text; a turn reasons first")
        held = part.get(kind, part.get("text"))
        listed = held if isinstance(held, list) else [held]
        pieces = [one.get("text") if isinstance(one, Mapping) else one for one in listed]
        if not all(isinstance(one, str) and not any(tag in one for tag in _TAGS) for one in pieces):
            raise RowError("wrong_type", f"{where}: '{place}' is {_kind(held)}; a text without <think> is needed")
        said.append("".join(map(str, pieces)).strip())
    if not said:
        return content, ""
    return [part for part, kind in zip(parts, kinds, strict=True) if kind not in _THOUGHT_PARTS], "\n\n".join(said)


def result_text(value: Any) -> Any:
    """A tool's result: a text, or parts of a content; of an object or any other list, its JSON."""
    kinds = [one.get("type") if isinstance(one, Mapping) else None for one in value] if isinstance(value, list) else []
    if kinds and all(kind in (*TEXT_PARTS, *_MEDIA_PARTS) for kind in kinds):
        return value
    if isinstance(value, Mapping | list | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def with_reasoning(message: Message, thoughts: str, key: str, where: str) -> Message:
    """The message with its reasoning in one place: apart where it came so or tools are called, else in the text."""
    content = message.content
    if "</think>" not in content:
        return replace(message, thoughts=thoughts)
    if thoughts and thoughts not in content:
        raise RowError("wrong_type", f"{where}: '{key}' has reasoning in its content and beside it; one is needed")
    head, _, rest = content.partition("</think>")
    if (thoughts or message.calls) and head.lstrip().startswith("<think>"):
        return replace(message, content=rest.strip(), thoughts=head.lstrip().removeprefix("<think>").strip())
    return message


def joined(messages: Sequence[Message], weighed: Sequence[bool]) -> list[Message]:
    """The messages with calls that stand in turns of their own joined to the assistant's turn before them.

    ``weighed``: whether each says itself if it is trained. A call that does not is trained as the turn that it joins.
    """
    found: list[Message] = []
    for message, own in zip(messages, weighed, strict=True):
        last = found[-1] if found else None
        bare = message.calls and not message.content.strip() and not message.thoughts
        if last is not None and bare and last.role == "assistant" and (not own or last.trained == message.trained):
            found[-1] = replace(last, calls=(*last.calls, *message.calls))
        else:
            found.append(message)
    return found


def as_row(message: Message) -> dict[str, Any]:
    """The message as a row has it."""
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        written["tool_calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in message.calls]
    more = {"reasoning_content": message.thoughts, "name": message.name, "tool_call_id": message.call_id}
    return written | {key: text for key, text in more.items() if text}


def check_results(messages: Sequence[Message], where: str) -> None:
    """Raises RowError where a result answers no call, or a call that is followed by results has none."""
    waiting: list[str] = []
    for n, message in enumerate(messages):
        if message.role == "tool":
            if not waiting or (message.call_id and any(waiting) and message.call_id not in waiting):
                named = f" '{message.call_id}'" if message.call_id else ""
                raise RowError("role_order", f"{where}: turn {n + 1} is the result of no call{named} before it")
            waiting.remove(message.call_id if message.call_id in waiting else waiting[0])
            continue
        if waiting and messages[n - 1].role == "tool":
            raise RowError(
                "role_order", f"{where}: turn {n + 1} is due behind {len(waiting)} more of the tools' results"
            )
        waiting = [call.id for call in message.calls]


def _parsed(text: str, key: str, where: str, needed: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        short = " ".join(text.split())[:40]
        raise RowError("wrong_type", f"{where}: '{key}' is {short!r}, which is no JSON; {needed} is needed") from None


def _written(value: Any, key: str, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        raise RowError("invalid_unicode", f"{where}: '{key}' has half of a surrogate pair") from None
    except (TypeError, ValueError):
        raise RowError("wrong_type", f"{where}: '{key}' holds what JSON cannot (NaN, say)") from None
    return text


def _kind(value: Any) -> str:
    return in_json(value) if value is None else f"{in_json(value)} ({' '.join(str(value).split())[:30]})"
