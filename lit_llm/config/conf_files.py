"""The folder of the configuration's files, and the options of its groups."""

from __future__ import annotations

from pathlib import Path

CONFIG = "lit_llm.conf"
INSIDE_THE_STAGE = {"loss": "dpo", "reward": "grpo"}
"""Groups that fill a key of some stages, each with one of those."""


def conf_folder() -> Path:
    return Path(__import__(CONFIG, fromlist=["conf"]).__path__[0])


def options(group: str) -> list[str]:
    """The names of a group's files."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
