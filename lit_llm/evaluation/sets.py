"""Held-out sets as files: one JSON object a line, so that a set can be read again long after its data is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_args

from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Example, Heldout, Labelled, Message, Prompt, Role, ToolCall
from lit_llm.runtime.atomic_files import write_text

_USUAL = {field.name: field.default for field in fields(Message) if field.default is not MISSING}
KINDS: dict[str, type] = {
    "documents": Document,
    "responses": Example,
    "rankings": Comparison,
    "labels": Labelled,
    "flags": Labelled,  # the label is "people flagged it"
    "prompts": Prompt,
}


def write_heldout(folder: str | Path, heldout: Heldout) -> Path:
    """Writes ``folder/<name>.jsonl``: on each line the kind and an item's fields. A name that is a path is refused."""
    if not heldout.name or {"/", "\\"} & set(heldout.name):
        raise UserError(f"held-out set {heldout.name!r}: its name would be a path; set data.name to a plain name")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"kind": heldout.kind, **_fields(item)}, ensure_ascii=False) for item in heldout.items]
    path = folder / f"{heldout.name}.jsonl"
    write_text(path, "".join(line + "\n" for line in lines))
    return path


def _fields(item: Any) -> dict[str, Any]:
    """An item's fields; of a message, what is as in most is not written: that it is trained, that it has no calls."""
    found = asdict(item)
    found.pop("file", None)  # its source says it
    for message in (one for name in ("messages", "prompt") for one in found.get(name, ())):
        for key in [key for key, value in message.items() if key in _USUAL and value == _USUAL[key]]:
            del message[key]
    if not found.get("parts", True):
        del found["parts"]
    return found


def read_heldout(path: str | Path) -> Heldout:
    """Reads one file; the set's name is the file's. Raises UserError naming file and line."""
    path = Path(path)
    kinds, items = [], []
    for number, line in enumerate(_lines(path), 1):
        try:
            value = json.loads(line)
            kinds.append(value.pop("kind"))
            items.append(_item(KINDS[kinds[-1]], value))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}:{number}: not an item of a held-out set; a run writes them, so copy the file again or run the "
                "stage again"
            ) from None
    if not items:
        raise UserError(f"{path}: the held-out set is empty")
    if len(set(kinds)) > 1:
        raise UserError(f"{path}: items of several kinds ({', '.join(sorted(set(kinds)))}); one file holds one kind")
    return Heldout(path.stem, kinds[0], tuple(items))


def read_all(folder: str | Path) -> list[Heldout]:
    """The sets of a run's ``heldout`` folder that hold something, by name."""
    return [read_heldout(path) for path in sorted(Path(folder).glob("*.jsonl")) if path.stat().st_size]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; copy the file again") from None


def _item(kind: type, value: Mapping[str, Any]) -> Any:
    found = dict(value)
    for name in ("messages", "prompt"):
        if name in found:
            found[name] = tuple(_message(message) for message in found[name])
    for name in ("completions", "ranks"):
        if name in found:
            found[name] = tuple(found[name])
    if "parts" in found:
        found["parts"] = tuple((at, name) for at, name in found["parts"])
    return kind(**found)


def _message(value: Mapping[str, Any]) -> Message:
    if value["role"] not in get_args(Role) or not isinstance(value["content"], str):
        raise ValueError(value)
    texts = {name: value.get(name, "") for name in ("thoughts", "name", "call_id")}
    calls = tuple(ToolCall(one["name"], one["arguments"], one["id"]) for one in value.get("calls", ()))
    if not all(isinstance(one, str) for one in (*texts.values(), *(t for c in calls for t in (c.name, c.arguments)))):
        raise ValueError(value)
    return Message(value["role"], value["content"], value.get("trained", True) is True, calls=calls, **texts)
