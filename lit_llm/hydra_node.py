"""What Hydra's own part of the configuration may name: launchers, sweepers, callbacks, and the classes of loggers.

Hydra builds these itself, before a run is looked at; a configuration of somebody else's could name any code there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_llm.targets import nodes, refusal, under

# Hydra's own and its plugins', and what the plugins for searches are configured with.
SEARCHES = ("hydra_plugins.", "hydra._internal.core_plugins.", "optuna.samplers.", "optuna.pruners.")
CALLBACKS = ("lit_llm.sweep.Leaderboard", "hydra.experimental.callbacks.")
LOGGING = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
           "logging.handlers.", "colorlog.")  # fmt: skip
CODE = ("class", "()", "queue", "listener", "factory")  # keys of logging.config whose texts are imported
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def findings(node: Mapping[str, Any], allowed: Sequence[str]) -> Iterator[str]:
    """A line for every piece of code in the node ``hydra`` (plain, not resolved) that may not run."""
    for group, places in (("launcher", SEARCHES), ("sweeper", SEARCHES), ("callbacks", CALLBACKS)):
        part = node.get(group)
        if part is not None and not isinstance(part, Mapping):
            yield f"hydra.{group}={part}: must be a mapping"
            continue
        yield from _hidden(part, f"hydra.{group}")
        for key, _, found in nodes(part, f"hydra.{group}"):
            target = found["_target_"]
            if target not in places and (reason := _foreign(target, (*places, *allowed))) is not None:
                yield f"{key}._target_={target}: {reason}"
    for group in ("job_logging", "hydra_logging"):
        yield from _in_logging(node.get(group), f"hydra.{group}", allowed)


def _foreign(target: Any, places: Sequence[str]) -> str | None:
    """As ``targets.refusal``; the places are Hydra's, so that none of our own kinds is asked for."""
    if isinstance(target, str) and under(target, ("lit_llm.",)) and target not in places:
        return f"is none of {', '.join(places)}"
    if target in places:
        return None
    return refusal(target, "", places)


def _hidden(value: Any, key: str) -> Iterator[str]:
    """Text that could become a mapping when it is resolved, in a place where mappings are built."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _hidden(item, f"{key}.{name}")
    elif isinstance(value, str) and value.startswith("${") and ("oc.decode" in value or "oc.create" in value):
        yield f"{key}={value}: write the values out"


def _in_logging(value: Any, key: str, allowed: Sequence[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in CODE and isinstance(item, str):
                if not (item in LOGGING or under(item, (*LOGGING, *allowed))):
                    yield f"{key}.{name}={item}: must be one of {', '.join(LOGGING)}"
            else:
                yield from _in_logging(item, f"{key}.{name}", allowed)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _in_logging(item, key, allowed)
    elif isinstance(value, str):
        if value.startswith(("ext://", "cfg://")) and value not in STREAMS:
            yield f"{key}={value}: must be one of {', '.join(STREAMS)}"
        elif value.startswith("${") and value.endswith("}"):
            yield f"{key}={value}: write the value out"
