"""The steps of a chain and what they need of each other: ``@name`` in a configuration is the output of that step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.errors import UserError


@dataclass
class Step:
    """One step of a chain: its plain configuration, in which ``@name`` is still to be replaced."""

    name: str
    config: dict[str, Any]
    parents: tuple[str, ...] = ()


def references(config: Any) -> list[str]:
    """The names after ``@`` in a configuration, in their order."""
    if isinstance(config, Mapping):
        return [name for value in config.values() for name in references(value)]
    if isinstance(config, list):
        return [name for value in config for name in references(value)]
    return [config[1:].split("/")[0]] if isinstance(config, str) and config.startswith("@") else []


def without(steps: dict[str, Step], skip: list[str]) -> dict[str, Step]:
    """The steps less those to skip and those that need them."""
    gone = set(skip)
    while True:
        more = {name for name, step in steps.items() if name not in gone and gone & set(step.parents)}
        if not more:
            return {name: step for name, step in steps.items() if name not in gone}
        gone |= more


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
