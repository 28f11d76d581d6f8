"""Which code a configuration may name: what is defined in an allowed module and is of the kind that the key takes.

Of this package that is what a room's options name as their ``TARGET``. A name is followed to its definition first
(``definitions.py``), and nothing is imported to ask what may be: ``lit_llm.training.build.torch.load`` is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_llm.config import renamed
from lit_llm.config.definitions import definitions
from lit_llm.config.signatures import options_of
from lit_llm.errors import UserError
from lit_llm.runtime.source_files import split

ALLOWED = ("lit_llm.",)
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


KINDS = {  # what a key takes, by the GROUP of the options of each part
    "stage": "a stage (a class derived from lit_llm.stages.base.Stage)",
    "data": "data (a class derived from lit_llm.data.data_module.DataModule)",
    "callbacks": "a callback (a class derived from Lightning's Callback)",
    "backbone": "a backbone",
    "rope_scaling": "a scaling of positions",
    "tokenizer": "a tokenizer",
    "optimizer": "an optimizer",
    "schedule": "a schedule",
    "logger": "a logger",
    "loss": "a loss",
    "reward": "a reward",
    "reward_validation": "a reward model's validation",
    "annotation": "what collects rankings",
}
# The kind of a part inside another one, by its key; under any other key it may be of any kind.
INSIDE = {"reward": "reward", "gold": "reward", "scorers": "reward", "loss": "loss",
          "reward_validation": "reward_validation", "rope_scaling": "rope_scaling"}  # fmt: skip


def refusal(target: Any, role: str, allowed: Sequence[str]) -> str | None:
    """Why a configuration may not build ``target`` at a key of this role; None: it may.

    ``allowed``: packages or modules, ``lit_llm.`` among them. What they define is built, not what they import.
    """
    if not isinstance(target, str) or not _DOTTED.fullmatch(target) or not under(target, allowed):
        return f"not under {', '.join(allowed)} (add a prefix of your own to allowed_targets)"
    if (now := renamed.target(target)) != target:
        return f"is called {now} now"
    try:
        paths = [target] if options_of(target) is not None else [one.path for one in definitions(target)]
    except UserError as error:
        made_up = None if under(target, ALLOWED) else _made_at_import(target)
        if made_up is None:
            return str(error).removeprefix(f"{target}: ")
        paths = [made_up]
    for path in paths:
        if not under(path, allowed):
            return (
                f"is {path}, which is not defined under {', '.join(allowed)}; name what is defined there, or add "
                "its package to allowed_targets"
            )
        options = options_of(path)
        if under(path, ALLOWED) and (options is None or (role in KINDS and role != options.GROUP)):
            return f"is not {KINDS.get(role, 'a part that a configuration can name')}"
    return None


def under(path: str, allowed: Sequence[str]) -> bool:
    """Whether a dotted path lies in one of the packages or modules, or is one of the names."""
    return any(prefix.strip(".") and f"{path}.".startswith(f"{prefix.rstrip('.')}.") for prefix in allowed)


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def bad_prefixes(allowed: Sequence[Any]) -> Iterator[str]:
    """The prefixes that name no package, such as an empty one, which would allow everything."""
    for prefix in allowed:
        if not isinstance(prefix, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.?", prefix):
            yield str(prefix)


def _made_at_import(target: str) -> str | None:
    """A name that a module of the user's makes up when it is asked for (``__getattr__``): where its object says it is
    defined. The module is one that the user allows to run."""
    try:
        module, names = split(target)
        value: Any = importlib.import_module(module)
        for name in names:
            value = getattr(value, name)
    except Exception:  # there is no such module or name, or it fails, which the caller tells with the key
        return None
    of = getattr(value, "__module__", None)
    return f"{of}.{getattr(value, '__qualname__', names[-1])}" if isinstance(of, str) else None


# Every place


def nodes(value: Any, path: str = "", role: str = "") -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, role, mapping) of every mapping with a ``_target_``, however deep: in lists, mappings and ``_args_``."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, role, value
        for key, item in value.items():
            inner = INSIDE.get(str(key), "" if "_target_" in value else role)
            yield from nodes(item, f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from nodes(item, f"{path}[{number}]", role)


# The kind of what stands at the top of a run's configuration; elsewhere INSIDE says it.
GROUPS = ("stage", "backbone", "tokenizer", "data", "optimizer", "schedule", "logger", "callbacks")


def saved_code(values: Mapping[str, Any], allowed: Sequence[str]) -> Iterator[str]:
    """A line for every piece of code that a run's plain configuration names and that may not run: targets, and the
    dotted paths of functions (a reward, a format)."""
    places = (*ALLOWED, *allowed)
    for group, part in values.items():
        for key, role, node in nodes(part, group, group if group in GROUPS else ""):
            reason = refusal(node["_target_"], role, places)
            if reason is not None:
                yield f"{key}._target_={node['_target_']}: {reason}"
            elif node.get("_args_") and under(str(node["_target_"]), ALLOWED):
                yield f"{key}._args_={node['_args_']}: a value without its name; it could be a function's"
        for key, function in _functions(part, group):
            if not under(function, places) or not _defined(function, places):
                yield f"{key}={function}: a function that is not under {', '.join(places)}"


def _defined(function: str, places: Sequence[str]) -> bool:
    try:
        return all(under(one.path, places) for one in definitions(function))
    except UserError:
        return False


def _functions(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str) and (name == "function" or (name == "format" and re.search(r"[.$]", item))):
                yield f"{key}.{name}", item
            else:
                yield from _functions(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _functions(item, f"{key}[{number}]")


def refuse(value: Any, path: str, role: str, allowed: Sequence[str]) -> None:
    """Raises UserError for the first target in ``value`` that may not be built."""
    for key, kind, node in nodes(value, path, role):
        reason = refusal(node["_target_"], kind, (*ALLOWED, *allowed))
        if reason is not None:
            raise UserError(f"{key}._target_={node['_target_']}: {reason}")


def construct(node: Any, role: str, allowed: Sequence[str] = (), path: str | None = None) -> Any:
    """What a node of a configuration describes (as Hydra's ``instantiate``). Raises UserError for code not allowed.

    The last gate, whatever read the configuration: it looks at the values as they are after all interpolations, and
    builds those very values. Hydra's own would read an interpolation anew in text that is left after that.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node if OmegaConf.is_config(node) else OmegaConf.create(node), resolve=True)
    refuse(plain, path or role, role, allowed)
    return _built(plain, path or role)


def _built(value: Any, key: str) -> Any:
    """``value`` with the object in place of every mapping that has a ``_target_``."""
    if isinstance(value, list):
        return [_built(item, f"{key}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    inner = {name: item for name, item in value.items() if name not in HYDRA_KEYS or name == "_args_"}
    if value.get("_recursive_", True):
        inner = {name: _built(item, f"{key}.{name}") for name, item in inner.items()}
    if "_target_" not in value:
        return inner
    given = list(inner.pop("_args_", None) or ())
    target = value["_target_"]
    made, partial = _located(target), value.get("_partial_", False)
    if partial:
        inner = {name: item for name, item in inner.items() if not (isinstance(item, str) and item == "???")}
    try:
        inner = _with_options(made, inner)
        return functools.partial(made, *given, **inner) if partial else made(*given, **inner)
    except UserError:
        raise
    except Exception as error:
        from hydra.errors import InstantiationException

        raise InstantiationException(f"{key}._target_={target}: {type(error).__name__}: {error}") from error


def _with_options(made: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a class, those that are fields of its ``Options`` as one object of it."""
    kind = getattr(made, "Options", None)
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        return given
    named = inspect.signature(made).parameters
    if "options" not in named:
        return given
    fields = {field.name for field in dataclasses.fields(kind)} - set(named)
    options = kind(**{name: value for name, value in given.items() if name in fields})
    return {"options": options, **{name: value for name, value in given.items() if name not in fields}}


def _located(target: str) -> Any:
    module, names = split(target)
    found: Any = importlib.import_module(module)
    for name in names:
        found = getattr(found, name)
    return found


def named_class(node: Any, role: str, allowed: Sequence[str] = ()) -> type:
    """The class that a node's ``_target_`` names. Raises UserError for one that is not allowed, or no class."""
    target = node["_target_"]
    refuse({"_target_": target}, role, role, allowed)
    found = _located(target)
    if not isinstance(found, type):
        raise UserError(f"{role}._target_={target}: a {type(found).__name__}; a class is needed")
    return found
