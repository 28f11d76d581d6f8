"""Messages from the shapes that data sets have: role and content, from and value, HH transcripts, plain strings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_llm.data.filters import clean
from lit_llm.data.streams import RowError
from lit_llm.data.suggestions import nearest
from lit_llm.records import Message, Role

ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "instruction"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: Any, key: str, where: str, *, empty: bool = False) -> str:
    """A field that must hold a text, cleaned. ``empty``: nothing but blanks is allowed."""
    if isinstance(value, list) and value and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        value = "".join(str(p.get("text", "")) for p in value)  # the parts of multimodal data sets
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; a string is needed")
    if not value.isascii() and (found := _SURROGATE.search(value)):
        raise RowError("invalid_unicode", f"{where}: '{key}' has half of a surrogate pair at character {found.start()}")
    if "\0" in value:
        raise RowError("nul_byte", f"{where}: '{key}' has a NUL byte at character {value.index(chr(0))}; is this text?")
    text = clean(value)
    if not empty and not text.strip():
        raise RowError("empty_turn", f"{where}: '{key}' is empty; it needs a text")
    return text


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__} ({str(value)[:30]})"


def messages_of(value: Any, key: str, where: str) -> list[Message]:
    """A list of messages, in either naming. Order and last role are ``check_order``'s."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; a list of messages is needed")
    if not value:
        raise RowError("empty_turn", f"{where}: '{key}' is an empty list; it needs messages")
    return [_message(item, f"{key}[{n}]", where) for n, item in enumerate(value)]


def _message(value: Any, key: str, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError("wrong_type", f"{where}: '{key}' is {_kind(value)}; an object with role and content is needed")
    role_key, text_key = ("role", "content") if "role" in value else ("from", "value")
    for name in (role_key, text_key):
        if name not in value:
            keys = ", ".join(map(str, value)) or "none"
            raise RowError("missing_field", f"{where}: '{key}' has keys {keys}; role and content, or from and value")
    role = value[role_key]
    known = ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        near = nearest(str(role), ROLES)
        hint = f"; did you mean '{near}'?" if near else ""
        raise RowError("unknown_role", f"{where}: '{key}' has role {str(role)[:30]!r}; user, assistant or system{hint}")
    return Message(known, text_of(value[text_key], f"{key}.{text_key}", where))


def check_order(messages: Sequence[Message], last: Role, where: str) -> tuple[Message, ...]:
    """One system message at most, first; then user and assistant in turn; ``last`` at the end."""
    turns = [m.role for m in messages]
    told = turns[1:] if turns[:1] == ["system"] else turns
    for n, role in enumerate(told):
        if role != ("user", "assistant")[n % 2]:
            n += len(turns) - len(told)
            right = "user" if n == 0 or turns[n - 1] != "user" else "assistant"
            raise RowError("role_order", f"{where}: turn {n + 1} is the {role}'s; the {right}'s turn is due")
    if not told or told[-1] != last:
        found = f"the {told[-1]}'s" if told else "missing"
        raise RowError("last_role", f"{where}: the last turn is {found}; the {last}'s is needed")
    return tuple(messages)


def prompt_of(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """A prompt as text, as an HH transcript that ends with ``Assistant:``, or as messages that end with the user's."""
    if not isinstance(value, str):
        return check_order(messages_of(value, key, where), "user", where)
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
