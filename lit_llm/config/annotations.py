"""Whether a plain value can be what a type says, and the type in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Union

_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,), bool: (bool,), int: (int,), float: (int, float), types.NoneType: (types.NoneType,),
    Path: (str,), PathLike: (str,),
}  # fmt: skip
_MANY = (list, tuple, set, frozenset, Sequence, Iterable)
_NAMED = (dict, Mapping)


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value can be of a type; what cannot be judged, such as a class of the program, fits."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in _PLAIN:
        return isinstance(value, _PLAIN[origin]) and (origin is bool or not isinstance(value, bool))
    if origin in _NAMED:
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values() if inner)
    if origin is tuple and inner and inner[-1] is not ...:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin in _MANY:
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value if inner)
    return True


def in_words(kind: Any) -> str:
    """A type for a message, a choice of words by the words alone: ``int or auto``."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType) and any(typing.get_origin(each) is Literal for each in inner):
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    return "null" if kind is types.NoneType else shown(kind)


def shown(kind: Any) -> str:
    """A type as it is written in code: ``str | Sequence[int]``."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " | ".join(map(shown, inner))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if kind is types.NoneType or kind is ...:
        return "None" if kind is types.NoneType else "..."
    name = str(getattr(origin or kind, "__name__", kind))
    return f"{name}[{', '.join(map(shown, inner))}]" if inner else name
