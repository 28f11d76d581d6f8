"""How a logged value is called in TensorBoard: its cards stand in the order of their names."""

from __future__ import annotations

FIRST = "Loss/"
"""Capitals come before small letters, so that this group is the first."""
RUNS = ("train", "val", "test")


def shown(name: str) -> str:
    """``train/loss`` -> ``Loss/train``, ``loss/policy`` -> ``Loss/policy``; all else as it is."""
    group, _, rest = name.partition("/")
    if rest == "loss" and group in RUNS:
        return FIRST + group
    return FIRST + rest if group == "loss" else name


def logged(tag: str) -> str:
    """The name under which a value was logged, of a tag in an event file; older runs have it as it is."""
    if not tag.startswith(FIRST):
        return tag
    rest = tag.removeprefix(FIRST)
    return f"{rest}/loss" if rest in RUNS else f"loss/{rest}"
