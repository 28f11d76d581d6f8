"""Who may import whom: the order of the rooms, from text to the command line, is held by reading every import."""

import ast
import tomllib
from pathlib import Path

import pytest

import lit_llm

PACKAGE = Path(lit_llm.__file__).parent
MAY_IMPORT = {
    "text": set(),
    "objectives": set(),
    "optim": set(),
    "checkpointing": set(),
    "backbone": set(),
    "feedback.store": set(),  # what people said: read by the data, written by the app
    "generation": {"text", "backbone"},
    "data": {"text", "feedback.store"},
    "evaluation": {"text", "backbone", "objectives", "generation"},
    "rewards": {"text", "backbone", "objectives", "generation", "evaluation"},
    "stages": {"checkpointing", "text", "backbone", "objectives", "generation", "evaluation", "rewards"},
    "callbacks": {"generation", "checkpointing", "evaluation"},
    "feedback.web": {"feedback.store", "feedback"},
    "feedback": {"text", "backbone", "data", "evaluation", "generation", "rewards", "feedback.store", "feedback.web"},
    "report": {"evaluation"},
    "benchmark": {"text", "data", "backbone", "objectives", "optim", "generation", "stages"},
}
TOP = {  # files at the top of the package that a room may import
    "arguments", "allocator", "bars", "devices", "durable", "errors", "exhaustion", "file_hashes", "model_folder",
    "processor", "records",
}  # fmt: skip
CONFIGURATION = {"hydra", "omegaconf"}


def room_of(parts):
    """The room of a module's path below the package: the longest known name."""
    return next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in MAY_IMPORT), None)


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_stands_below_it(room):
    files = [f for f in PACKAGE.joinpath(*room.split(".")).rglob("*.py") if room_of(_inside(f)) == room]
    for file in files:
        for name in imports_of(file):
            where = f"{file.relative_to(PACKAGE)} imports {'.'.join(name)}"
            assert name[0] not in CONFIGURATION, where
            if room in ("backbone", "objectives"):
                assert name[0] != "lightning", where
            if name[0] == "lit_llm" and len(name) > 1:
                other = room_of(name[1:])
                assert other == room or other in MAY_IMPORT[room] or (other is None and name[1] in TOP), where


def test_every_room_is_named_here():
    folders = {p.parent.relative_to(PACKAGE).parts for p in PACKAGE.rglob("__init__.py")} - {()}
    assert {room_of(parts) for parts in folders} == set(MAY_IMPORT)


def test_every_folder_is_installed():
    settings = tomllib.loads(PACKAGE.parent.joinpath("pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders | {"lit_llm.conf"}


def _inside(file):
    return file.relative_to(PACKAGE).with_suffix("").parts
