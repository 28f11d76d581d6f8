"""The steps of a chain and what they need of each other: ``@name`` in a configuration is the output of that step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_llm.config.schema import texts
from lit_llm.errors import UserError


@dataclass
class Step:
    """One step of a chain: its plain configuration, in which ``@name`` is still to be replaced."""

    name: str
    config: dict[str, Any]
    parents: tuple[str, ...] = ()


def runs(values: Mapping[str, Any], skipped: bool = True) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The plain configuration of a run, or of each run of a pipeline, with the prefix of its keys. ``skipped``: those
    that the pipeline leaves out too."""
    if "stages" not in values:
        yield "", values
        return
    for name, run in values["stages"].items():
        if skipped or name not in values["skip"]:
            yield f"stages.{name}.", run


def references(config: Any) -> list[str]:
    """The names after ``@`` in a configuration, in their order."""
    return [text[1:].split("/")[0] for _, text in texts(config) if text.startswith("@")]


def filled(config: Any, output: Callable[[str], Path]) -> Any:
    """The configuration with every ``@name``, and ``@name/file``, replaced by ``output(name)``, what that step made."""
    if isinstance(config, Mapping):
        return {filled(key, output): filled(item, output) for key, item in config.items()}
    if isinstance(config, list):
        return [filled(item, output) for item in config]
    if isinstance(config, str) and config.startswith("@"):
        name, _, rest = config[1:].partition("/")
        return str(output(name) / rest) if rest else str(output(name))
    return config


def without(steps: dict[str, Step], skip: list[str]) -> dict[str, Step]:
    """The steps less those to skip and those that need them; what only judges answers is taken out of a step."""
    gone = set(skip)
    while True:
        kept = {name: without_links(step, gone) for name, step in steps.items() if name not in gone}
        more = {name for name, step in kept.items() if gone & set(step.parents)}
        if not more:
            return kept
        gone |= more


def without_links(step: Step, gone: set[str]) -> Step:
    """The step without the scorers of its evaluation that a step of ``gone`` makes: it can be trained all the same."""
    evaluation = step.config.get("evaluation") or {}
    scorers = evaluation.get("scorers") or {}
    kept = {name: node for name, node in scorers.items() if not gone & set(references(node))}
    if len(kept) == len(scorers):
        return step
    config = {**step.config, "evaluation": {**evaluation, "scorers": kept}}
    return Step(step.name, config, tuple(dict.fromkeys(references(config))))


def ordered(steps: dict[str, Step]) -> dict[str, Step]:
    """Every step after those that it needs. Raises UserError when they wait for each other."""
    found: dict[str, Step] = {}
    while len(found) < len(steps):
        ready = [name for name, step in steps.items() if name not in found and set(step.parents) <= set(found)]
        if not ready:
            rest = ", ".join(name for name in steps if name not in found)
            raise UserError(f"stages: {rest} wait for each other, or for a step that is not there (@name)")
        found[ready[0]] = steps[ready[0]]
    return found


def descendants(steps: dict[str, Step], start: str) -> set[str]:
    """The steps that need ``start``, or what needs it."""
    found: set[str] = set()
    for name, step in steps.items():
        if {start, *found} & set(step.parents):
            found.add(name)
    return found


def ancestors(steps: dict[str, Step], names: set[str], stop: str | None = None) -> set[str]:
    """All that the steps ``names`` need; what only ``stop`` needs is left out."""
    found: set[str] = set()
    waiting = [parent for name in names for parent in steps[name].parents]
    while waiting:
        name = waiting.pop()
        if name in steps and name not in found:
            found.add(name)
            waiting += steps[name].parents if name != stop else ()
    return found - names


def begins_from(step: Step) -> str | None:
    """The step whose model a step begins from: it is trained further, or (rankings) its answers are ranked."""
    value = step.config.get("init_from", step.config.get("model"))
    return value[1:].split("/")[0] if isinstance(value, str) and value.startswith("@") else None
