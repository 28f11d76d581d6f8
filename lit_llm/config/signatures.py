"""The keys of what ``_target_`` names: of this package from its options, without torch; of a user's part by import.

A room keeps the options of what it offers in its ``options.py``, dataclasses that name what they are of as ``TARGET``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.source_files import module_file, split
from lit_llm.runtime.suggestions import nearest


@dataclass(frozen=True)
class Parameter:
    name: str
    type: Any  # Any where none is said
    required: bool


@dataclass(frozen=True)
class Signature:
    parameters: tuple[Parameter, ...]
    open: bool = False  # takes **kwargs: an unknown key cannot be told from a known one
    options: type[Options] | None = None  # of a part of this package


@cache
def options_of(target: str) -> type[Options] | None:
    """The dataclass of the options of a part of this package; None: there is no such part."""
    package, _, rest = target.partition(".")
    module = f"{package}.{rest.partition('.')[0]}.options"
    if package != "lit_llm" or module_file(module) is None:
        return None
    known = vars(importlib.import_module(module)).values()
    return next((kind for kind in known if isinstance(kind, type) and vars(kind).get("TARGET") == target), None)


@cache
def signature(target: str) -> Signature:
    """What the class or function at a dotted path is made from. Raises UserError when there is none."""
    options = options_of(target)
    if options is None:
        return _by_import(target)
    parts = [*((name, True) for name in options.NEEDS), *((name, False) for name in options.TAKES)]
    of_parts = (Parameter(name, Any, required) for name, required in parts)
    return Signature((*fields_of(options), *of_parts), options=options)


def fields_of(kind: type) -> Iterator[Parameter]:
    """The fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init:
            yield Parameter(field.name, hints[field.name], required)


def _by_import(target: str) -> Signature:
    """Of a user's part. Built-in callables without a signature take anything.

    Where a class takes ``options`` and names their dataclass as ``Options``, its fields stand in their place: so a
    configuration gives them.
    """
    value = _imported(target)
    try:
        given = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return Signature((), open=True)
    kinds, hints = inspect.Parameter, _hints(value)
    named = {
        name: Parameter(name, hints.get(name, Any), each.default is kinds.empty)
        for name, each in given.items()
        if each.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    }
    is_open = any(each.kind is kinds.VAR_KEYWORD for each in given.values())
    options = getattr(value, "Options", None)
    if "options" in named and isinstance(options, type) and dataclasses.is_dataclass(options):
        del named["options"]
        named |= {each.name: each for each in fields_of(options) if each.name not in named}
        is_open = False  # what further keys it takes are those of its options
    return Signature(tuple(named.values()), open=is_open)


def _hints(value: Any) -> dict[str, Any]:
    """The types of the parameters, as far as the names in them are known."""
    try:
        return typing.get_type_hints(value.__init__ if isinstance(value, type) else value)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}


def _imported(target: str) -> Any:
    module, names = split(target)
    try:
        value: Any = importlib.import_module(module)
        for name in names:
            value = getattr(value, name)
    except (ImportError, SystemExit) as error:
        raise UserError(f"{target}: cannot be imported ({error})") from None
    except AttributeError:
        near = nearest(names[0], dir(importlib.import_module(module)))
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"{target}: module {module} has no {'.'.join(names)}{hint}") from None
    return value
