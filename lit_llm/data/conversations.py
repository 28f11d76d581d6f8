"""Messages from the shapes that data sets have: role and content, from and value, HH transcripts, plain strings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_llm.data.row_errors import RowError, in_json
from lit_llm.data.row_keys import check_part
from lit_llm.data.row_keys import empty as says_nothing
from lit_llm.data.tool_messages import (
    CALLING,
    OF_TURNS,
    TEXT_PARTS,
    TOOL_PARTS,
    TOOLS,
    called,
    calls_of,
    check_results,
    joined,
    reasoning_of,
    result_text,
    tools_of,
    with_reasoning,
    without_thoughts,
)
from lit_llm.records import Message, Role
from lit_llm.runtime.suggestions import nearest

ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "instruction"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(CALLING, "assistant"),
}
SYSTEM = ("system", "system_prompt", "system_message")
"""A row's own system message, beside its messages or its prompt."""
CONTEXT = (*SYSTEM, "history", *TOOLS)
TRAINED = ("weight", "train", "loss", "training")
"""Whether an assistant's turn is learned from: 0 or false, 1 or true."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: Any, key: str, where: str, *, empty: bool = False) -> str:
    """A field that must hold a text, or a list of parts that each do. ``empty``: nothing but blanks is allowed."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        value = "".join(_part(part, f"{key}[{n}]", where) for n, part in enumerate(value))
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; a string is needed")
    if not value.isascii() and (found := _SURROGATE.search(value)):
        raise RowError("invalid_unicode", f"{where}: '{key}' has half of a surrogate pair at character {found.start()}")
    if not empty and not value.strip():
        raise RowError("empty_turn", f"{where}: '{key}' is empty; it needs a text")
    return value


def _part(part: Mapping[str, Any], key: str, where: str) -> str:
    """The text of one part of a content: {"type": "text", "text": ...}."""
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        why = "text alone is trained, no media"
        if kind in TOOL_PARTS:
            why = "a call stands in the message's tool_calls, its result in a message of role tool"
        raise RowError("unknown_part", f"{where}: '{key}' is a part of type {str(kind)[:30]!r}; {why}")
    if "text" not in part:
        keys = ", ".join(str(one)[:40] for one in part) or "none"
        raise RowError("unknown_part", f"{where}: '{key}' has keys {keys}; a part of a text has type and text")
    check_part(part, ("type", "text"), where, key)
    return text_of(part["text"], f"{key}.text", where, empty=True)


def _kind(value: Any) -> str:
    return in_json(value) if value is None else f"{in_json(value)} ({str(value)[:30]})"


def messages_of(value: Any, key: str, where: str) -> list[Message]:
    """A list of messages, in either naming. Order and last role are ``check_order``'s.

    Calls in turns of their own (sharegpt's ``function_call``) are part of the assistant's turn before them.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; a list of messages is needed")
    if not value:
        raise RowError("empty_turn", f"{where}: '{key}' is an empty list; it needs messages")
    messages = [_message(item, f"{key}[{n}]", where) for n, item in enumerate(value)]
    return joined(messages, [trained_of(item, f"{key}[{n}]", where) is not None for n, item in enumerate(value)])


def _message(value: Any, key: str, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; an object with role and content is needed")
    role_key, text_key = ("role", "content") if "role" in value else ("from", "value")
    for name in (role_key, text_key):
        if name not in value and not (name == text_key and calls_of(value, key, where)):
            keys = ", ".join(map(str, value)) or "none"
            raise RowError("missing_field", f"{where}: '{key}' has keys {keys}; role and content, or from and value")
    check_part(value, (role_key, text_key, *TRAINED, *OF_TURNS), where, key)
    role = value[role_key]
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        near = nearest(str(role), ROLES)
        hint = f"; did you mean '{near}'?" if near else ""
        raise RowError(
            "unknown_role", f"{where}: '{key}' has role {str(role)[:30]!r}; user, assistant, system or tool{hint}"
        )
    trained = trained_of(value, key, where)
    if trained and known != "assistant":
        raise RowError(
            "not_trainable",
            f"{where}: '{key}' asks to train the {known}'s turn; only the assistant's are trained "
            "(data.train_on_prompt=true trains all)",
        )
    message = Message(known, "", trained is not False, name=_name(value, "name", key, where))
    return _filled(message, str(role).lower(), value, text_key, key, where)


def _filled(message: Message, role: str, value: Mapping[str, Any], text_key: str, key: str, where: str) -> Message:
    """The message with its content and what belongs to its role: calls and reasoning, or the call that it answers."""
    calls, thoughts = calls_of(value, key, where), reasoning_of(value, key, where)
    answers = _name(value, "tool_call_id", key, where)
    wrong = next((what for what, has in (("calls tools", calls), ("reasons", thoughts)) if has), "")
    if wrong and message.role != "assistant":
        raise RowError("wrong_type", f"{where}: '{key}' {wrong}, and is the {message.role}'s; only the assistant does")
    if answers and message.role != "tool":
        raise RowError("wrong_type", f"{where}: '{key}' has a tool_call_id, and is the {message.role}'s; only a tool's")
    content, name = value.get(text_key), f"{key}.{text_key}"
    if message.role == "tool":
        return replace(message, content=text_of(result_text(content), name, where, empty=True), call_id=answers)
    if role in CALLING:
        given = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return replace(message, calls=(*calls, *called(given, name, where)), thoughts=thoughts)
    if message.role == "assistant":
        content, parted = without_thoughts(content, name, where)
        if parted and thoughts and parted != thoughts:
            raise RowError("wrong_type", f"{where}: '{key}' has reasoning in its content and beside it; one is needed")
        thoughts, content = parted or thoughts, "" if content == [] else content
    text = "" if calls and content is None else text_of(content, name, where, empty=bool(calls))
    return with_reasoning(replace(message, content=text, calls=calls), thoughts, key, where)


def _name(value: Mapping[str, Any], name: str, key: str, where: str) -> str:
    said = value.get(name)
    if says_nothing(said):
        return ""
    if not isinstance(said, str | int):
        raise RowError("wrong_type", f"{where}: '{key}.{name}' is {_kind(said)}; a string is needed")
    return str(said)


def trained_of(value: Mapping[str, Any], key: str, where: str) -> bool | None:
    """What ``weight``, ``train`` or ``loss`` say: whether a turn is trained, or None where they say nothing."""
    found: bool | None = None
    for name in TRAINED:
        if says_nothing(said := value.get(name)):
            continue
        named = f"{key}.{name}" if key else name
        if not isinstance(said, bool | int | float) or said not in (0, 1):
            raise RowError(
                "wrong_type", f"{where}: '{named}' is {str(said)[:30]}; 0 (not trained) or 1 (trained) is needed"
            )
        if found is not None and found != bool(said):
            raise RowError("wrong_type", f"{where}: '{named}' is {said} and another key of the turn says the opposite")
        found = bool(said)
    return found


def untrained(messages: Sequence[Message]) -> list[Message]:
    """Messages of a prompt, of which nothing is trained whatever they say of it."""
    return [message if message.trained else replace(message, trained=True) for message in messages]


def in_context(value: Mapping[str, Any], messages: Sequence[Message], where: str) -> list[Message]:
    """The messages behind the row's own ``tools``, ``system`` message and ``history`` of turns, where it has them.

    ``history`` is a list of [user, assistant] (LLaMA-Factory), or of messages. As there, its answers are trained like
    all others; ``train_last_only`` leaves them out.
    """
    told = {key: text_of(value[key], key, where) for key in SYSTEM if not says_nothing(value.get(key))}
    past = _history(value.get("history"), where)
    messages, tools = list(messages), tools_of(value, where)
    if not told and not past:
        return [*tools, *messages]
    if messages[:1] and messages[0].role == "system":
        told["messages"] = messages.pop(0).content
    if len(set(told.values())) > 1:
        raise RowError("two_systems", f"{where}: {' and '.join(told)} hold different system messages; one is needed")
    head = [Message("system", next(iter(told.values())))] if told else []
    return [*tools, *head, *past, *messages]


def _history(value: Any, where: str) -> list[Message]:
    if says_nothing(value):
        return []
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{where}: 'history' is {_kind(value)}; a list of [user, assistant] is needed")
    if all(isinstance(turn, Mapping) for turn in value):
        return messages_of(value, "history", where)
    turns: list[Message] = []
    for n, turn in enumerate(value):
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise RowError("wrong_type", f"{where}: 'history[{n}]' is {_kind(turn)}; [user, assistant] is needed")
        user, assistant = (text_of(text, f"history[{n}][{k}]", where) for k, text in enumerate(turn))
        turns += [Message("user", user), Message("assistant", assistant)]
    return turns


def check_order(messages: Sequence[Message], last: Role, where: str) -> tuple[Message, ...]:
    """One system message at most, first; then user and assistant in turn; ``last`` at the end.

    An assistant that calls tools is followed by their results and goes on; where the user is to be last, a result may.
    """
    turns = [message for message in messages if message.role != "tools"]
    told = turns[1:] if turns[:1] and turns[0].role == "system" else turns
    due: tuple[Role, ...] = ("user",)
    for n, message in enumerate(told, start=1 + len(turns) - len(told)):
        if message.role not in due:
            raise RowError("role_order", f"{where}: turn {n} is the {message.role}'s; the {due[0]}'s turn is due")
        due = ("tool",) if message.calls else ("user",) if message.role == "assistant" else ("assistant",)
        due = ("assistant", "tool") if message.role == "tool" else due
    check_results(turns, where)
    if not told or (told[-1].role != last and not (last == "user" and told[-1].role == "tool")):
        found = f"the {told[-1].role}'s" if told else "missing"
        raise RowError("last_role", f"{where}: the last turn is {found}; the {last}'s is needed")
    return tuple(messages)


def prompt_of(value: Any, key: str, where: str, *, masks: bool = False) -> tuple[Message, ...]:
    """A prompt as text, as an HH transcript that ends with ``Assistant:``, or as messages that end with the user's.

    ``masks``: keep which of its answers are trained, for a prompt that is the beginning of an example.
    """
    if not isinstance(value, str):
        found = messages_of(value, key, where)
        return check_order(found if masks else untrained(found), "user", where)
    if value.startswith("\n\nHuman:") and value.rstrip().endswith("\n\nAssistant:"):
        turns = transcript(value.rstrip().removesuffix("\n\nAssistant:"), key, where)
        return check_order(turns, "user", where)
    return (Message("user", text_of(value, key, where)),)


def transcript(value: Any, key: str, where: str) -> list[Message]:
    r"""Turns of a HH transcript: split on ``\n\nHuman:`` and ``\n\nAssistant:``, stripped, none empty."""
    text = text_of(value, key, where)
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 3:
        raise RowError("not_a_transcript", f"{where}: '{key}' does not begin with '\\n\\nHuman:' ({text[:30]!r})")
    messages = []
    for n, (name, content) in enumerate(zip(parts[1::2], parts[2::2], strict=True), start=1):
        if not content.strip():
            raise RowError("empty_turn", f"{where}: '{key}' turn {n} ({name}) is empty; it needs a text")
        messages.append(Message("user" if name == "Human" else "assistant", content.strip()))
    return messages
