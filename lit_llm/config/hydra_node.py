"""What Hydra's own part of the configuration may name: launchers, sweepers, callbacks, and the classes of loggers.

Hydra builds these itself, before a run is looked at; a configuration of somebody else's could name any code there.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from lit_llm.config.environment import has_password, password_told
from lit_llm.config.targets import nodes, refusal, under

# Hydra's own and its plugins', and what the plugins for searches are configured with.
SEARCHES = ("hydra_plugins.", "hydra._internal.core_plugins.", "optuna.samplers.", "optuna.pruners.")
# Ours, which training/plugins.py makes known to Hydra: they stand in no package of that name.
REGISTERED = ("hydra_plugins.lit_llm.OptunaSweeper", "hydra_plugins.lit_llm.SlurmLauncher")
CALLBACKS = ("lit_llm.training.sweep.Leaderboard", "hydra.experimental.callbacks.")
# Each by its full name: a module such as logging.handlers also holds what it imports itself (os, socket, pickle).
LOGGING = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
           "colorlog.ColoredFormatter", "colorlog.TTYColoredFormatter", "colorlog.LevelFormatter",
           "colorlog.StreamHandler",
           *(f"logging.handlers.{name}" for name, value in vars(logging.handlers).items()
             if isinstance(value, type) and issubclass(value, logging.Handler)))  # fmt: skip
CODE = ("class", "()", "queue", "listener", "factory")  # keys of logging.config whose texts are imported
NO_OPTUNA = "hydra/sweeper=optuna: optuna is missing; pip install 'lit-llm[optuna]'"
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def touched_by(word: str) -> bool:
    """Whether an override changes Hydra's own part: ``hydra.x=``, ``hydra/x=``, ``group@hydra.x=``."""
    key = word.lstrip("+~").partition("=")[0]
    return any(place.split(".")[0].split("/")[0] == "hydra" for place in re.split("[@:]", key))


def findings(node: Mapping[str, Any], allowed: Sequence[str]) -> Iterator[str]:
    """A line for every piece of code in the node ``hydra`` (plain, not resolved) that may not run; of what is not
    installed, one for all that needs it."""
    missing = False
    for group, places in (("launcher", SEARCHES), ("sweeper", SEARCHES), ("callbacks", CALLBACKS)):
        part = node.get(group)
        if part is not None and not isinstance(part, Mapping):
            yield f"hydra.{group}={part}: must be a mapping"
            continue
        yield from _hidden(part, f"hydra.{group}", node)
        for key, _, found in nodes(part, f"hydra.{group}"):
            target = found["_target_"]
            if target not in (*places, *REGISTERED) and (reason := _foreign(target, (*places, *allowed))) is not None:
                if reason == NO_OPTUNA:
                    missing = True
                    continue
                yield f"{key}._target_={target}: {reason}"
    if missing:
        yield NO_OPTUNA
    sweeper = node.get("sweeper")
    storage = sweeper.get("storage") if isinstance(sweeper, Mapping) else None  # of a search, written into its folders
    if isinstance(storage, str) and has_password(storage):
        yield password_told("hydra.sweeper.storage", storage)
    for group in ("job_logging", "hydra_logging"):
        yield from _in_logging(node.get(group), f"hydra.{group}", allowed)


def _foreign(target: Any, places: Sequence[str]) -> str | None:
    """As ``targets.refusal``; the places are Hydra's, so that none of our own kinds is asked for."""
    if isinstance(target, str) and under(target, ("lit_llm.",)) and target not in places:
        return f"is none of {', '.join(places)}"
    if target in places:
        return None
    if isinstance(target, str) and target.startswith("optuna.") and find_spec("optuna") is None:
        return NO_OPTUNA
    return refusal(target, "", places)


def _hidden(value: Any, key: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Text that could become a mapping when it is resolved, in a place where mappings are built: another place of the
    configuration holds what is not looked at here."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _hidden(item, f"{key}.{name}", node)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _hidden(item, f"{key}[{number}]", node)
    elif isinstance(value, str) and re.fullmatch(r"\s*\$\{.*\}\s*", value, re.DOTALL):
        if re.fullmatch(r"\$\{oc\.env:\w+\}", value) or _plain_text(value, node):
            return
        yield f"{key}={value}: write the values out"


def _plain_text(value: str, node: Mapping[str, Any]) -> bool:
    """Whether a text is ``${hydra.a.b}``, and there a text or a number stands that is no such reference itself."""
    found: Any = {"hydra": node}
    if re.fullmatch(r"\$\{hydra(\.\w+)+\}", value) is None:
        return False
    for name in value[2:-1].split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return isinstance(found, bool | int | float) or (isinstance(found, str) and not found.strip().startswith("${"))


def _in_logging(value: Any, key: str, allowed: Sequence[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in CODE and isinstance(item, str):
                if not (item in LOGGING or under(item, allowed)):
                    yield f"{key}.{name}={item}: must be a handler or formatter of logging or colorlog"
            else:
                yield from _in_logging(item, f"{key}.{name}", allowed)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _in_logging(item, key, allowed)
    elif isinstance(value, str):
        if value.startswith(("ext://", "cfg://")) and value not in STREAMS:
            yield f"{key}={value}: must be one of {', '.join(STREAMS)}"
        elif (value.startswith("${") and value.endswith("}")) or "oc.env" in value:  # a file's name is read in clear
            yield f"{key}={value}: write the value out"
