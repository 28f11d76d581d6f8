"""What a stage is made of is read in few places: no class of stages stands more than three below Lightning's."""

import importlib
from pathlib import Path

import lightning as L

from lit_llm import stages

DEEPEST = 3


def subclasses(kind, depth=1):
    for each in kind.__subclasses__():
        if each.__module__.startswith("lit_llm."):
            yield each, depth
            yield from subclasses(each, depth + 1)


def test_no_stage_inherits_from_more_than_two_others():
    for file in Path(stages.__file__).parent.glob("*.py"):
        importlib.import_module(f"lit_llm.stages.{file.stem}")
    found = dict(subclasses(L.LightningModule))
    assert len(found) > 12 and max(found.values()) == DEEPEST, found
    for kind, depth in found.items():
        # By mixins neither: every class of this package in its order of resolution is on the one line above it.
        assert sum(base.__module__.startswith("lit_llm.") for base in kind.__mro__) == depth, kind


def test_no_class_asks_which_stage_it_is():
    names = {kind.__name__ for kind, _ in subclasses(L.LightningModule)}
    for file in Path(stages.__file__).parents[1].rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not [name for name in names for what in ("self", "stage") if f"isinstance({what}, {name}" in text], file
