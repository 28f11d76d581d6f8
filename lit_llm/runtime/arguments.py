"""``key=value`` arguments of the small scripts, read onto a dataclass (training itself is configured by Hydra).

The dataclass says everything: names, types, defaults, and the line of help: ``top_k: Annotated[int, "help"] = 5``.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from lit_llm.errors import UserError
from lit_llm.runtime.out_of_resources import one_line
from lit_llm.runtime.suggestions import nearest
from lit_llm.runtime.terminal import broken, columns, quiet_without_reader

T = TypeVar("T")

NEEDS_MEMORY = ("batch_size", "micro_batch_size", "max_length", "samples", "max_new_tokens", "max_items", "k")
"""Keys of the scripts whose value memory grows with."""
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


def parse(arguments: type[T], argv: Sequence[str]) -> T:
    """Reads ``argv`` (without the program's name) onto the dataclass ``arguments``.

    Text is taken as it is written: nothing in a value is special, and only the first ``=`` divides.
    ``--help`` prints the keys and exits with 0. Raises UserError for an unknown key (naming the nearest one),
    a value of the wrong type, a key given twice, and a missing one.
    """
    if any(word in ("--help", "-h") for word in argv):
        print(broken(describe(arguments), columns(sys.stdout)))
        raise SystemExit(0)
    hints = typing.get_type_hints(arguments)
    fields = {f.name: f for f in dataclasses.fields(arguments) if f.init}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for word in argv:
        key, text = split_word(word, fields)
        if key in given:
            raise UserError(f"{key}= is given twice; give it once")
        given[key] = _convert(key, text, hints[key])
    missing = [name for name, f in fields.items() if name not in given and _required(f)]
    if missing:
        wanted = " ".join(f"{name}={_type_name(hints[name]).upper()}" for name in missing)
        raise UserError(f"missing {wanted} (--help lists every key)")
    return arguments(**given)


def run_command(arguments: type[T], command: Callable[[T], None], argv: Sequence[str] | None = None) -> None:
    """A script's main: parse, run; a user's mistake is one line on stderr and status 2, Ctrl+C is 130."""
    with quiet_without_reader():
        _run(arguments, command, sys.argv[1:] if argv is None else argv)


def _run(arguments: type[T], command: Callable[[T], None], argv: Sequence[str]) -> None:
    try:
        command(parse(arguments, argv))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        keys = [f.name for f in dataclasses.fields(arguments) if f.name in NEEDS_MEMORY]  # type: ignore[arg-type]
        told = one_line(error, " or ".join([*(f"lower {key}" for key in keys), "take a smaller model"]))
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(2) from None


def describe(arguments: type) -> str:
    """The help text: the dataclass's docstring, then one line per key with type, default and meaning."""
    hints = typing.get_type_hints(arguments, include_extras=True)
    rows = []
    for f in dataclasses.fields(arguments):
        default = "required" if _required(f) else f"default {_shown(f)}"
        kind, meaning = _kind_and_help(hints[f.name])
        rows.append((f"  {f.name}={_type_name(kind).upper()}", f"{meaning} ({default})"))
    width = max((len(left) for left, _ in rows), default=0)
    lines = [f"{left:<{width}}  {right.strip()}" for left, right in rows]
    return "\n".join([(arguments.__doc__ or arguments.__name__).strip(), "", "keys:", *lines])


def split_word(word: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    """Key and value of an argument. Raises UserError for one that is none, or a key that is not among ``fields``."""
    key, equals, text = word.partition("=")
    bare = key.lstrip("-").replace("-", "_")
    if bare != key and bare in fields:
        raise UserError(f"{word}: write {bare}={text or 'VALUE'}, without dashes")
    if not equals:
        raise UserError(f"{word!r}: arguments are written key=value; the keys are {', '.join(fields)}")
    if key not in fields:
        near = nearest(bare, fields)
        hint = f"did you mean {near}=?" if near else f"the keys are {', '.join(fields)}"
        raise UserError(f"unknown key {key}=; {hint}")
    return key, text


def _convert(key: str, text: str, hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(key, text, inner)
    if origin is Literal:
        return _choose(key, text, {str(value): value for value in inner})
    if origin in (list, tuple):
        return origin(_convert(key, part.strip(), inner[0]) for part in text.split(",") if part.strip())
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _choose(key, text, {str(member.value): member for member in hint})
    if hint is bool:
        return _choose(key, text.lower(), {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)})
    if hint in (int, float):
        return _number(key, text, hint)
    if hint is Path:
        return Path(text).expanduser()
    if hint is str:
        return text
    raise TypeError(f"{key}: a field of type {hint} cannot be given on the command line")


def _convert_union(key: str, text: str, inner: tuple[Any, ...]) -> Any:
    if type(None) in inner and text.lower() in ("none", "null", ""):
        return None
    kinds = [kind for kind in inner if kind is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _convert(key, text, kind)
        except UserError:
            continue  # the last kind's message is the one that is shown
    return _convert(key, text, kinds[-1])


def _number(key: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text.replace("_", "")) if kind is int else float(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={text}: {key} must be {wanted}") from None


def _choose(key: str, text: str, choices: dict[str, Any]) -> Any:
    if text not in choices:
        names = ["true", "false"] if set(choices) == _TRUE | _FALSE else list(choices)
        raise UserError(f"{key}={text}: {key} must be one of {', '.join(names)}")
    return choices[text]


def _kind_and_help(hint: Any) -> tuple[Any, str]:
    if typing.get_origin(hint) is Annotated:
        kind, *notes = typing.get_args(hint)
        return kind, str(notes[0])
    return hint, ""


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _shown(f: dataclasses.Field[Any]) -> str:
    value = f.default_factory() if callable(f.default_factory) else f.default
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(kind) for kind in inner if kind is not type(None))
    if origin is Literal:
        return "|".join(str(value) for value in inner)
    if origin in (list, tuple):
        return f"{_type_name(inner[0])},..."
    return {"str": "text", "Path": "path", "int": "int", "float": "number", "bool": "true|false"}.get(
        getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint))
    )
