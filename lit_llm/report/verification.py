"""The lineage check inside the page: every byte along the chain is hashed again while the page is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_llm.lineage import verification
from lit_llm.report.chain import State
from lit_llm.report.reading import PARENTS, StageRun


@dataclass(frozen=True)
class Check:
    state: State
    differences: tuple[str, ...] = ()


def verify_chain(stages: Sequence[StageRun]) -> dict[str, Check]:
    """A check per stage. Only the ends of the chain are verified, since each verifies all that it was made from."""
    visited: set[Path] = set()
    differences: list[str] = []
    for stage in _ends(stages):
        try:
            folders, found = verification.verify(stage.made)
        except Exception as error:  # a damaged lineage is a difference, not a crash
            folders, found = [str(stage.made)], [f"{stage.made.name}: the lineage cannot be followed: {error!s}"]
        visited |= {Path(folder).resolve() for folder in folders}
        own = (f"{stage.made.name}/", f"{stage.made.name}:")
        differences += [stage.name + line[len(stage.made.name) :] if line.startswith(own) else line for line in found]
    return {stage.name: _check(stage, visited, differences) for stage in stages}


def parents(stage: StageRun, stages: Sequence[StageRun]) -> tuple[str, ...]:
    """The pipeline's stages that ``stage`` was made from: by its lineage, else by the chain's usual order."""
    known = {each.made.resolve(): each.name for each in stages if each is not stage}
    if stage.lineage:
        places = [(stage.made / str(parent.get("path", ""))).resolve() for parent in stage.lineage.get("parents", ())]
        return tuple(dict.fromkeys(known[place] for place in places if place in known))
    names = {each.name for each in stages}
    return tuple(name for name in PARENTS.get(stage.name, ()) if name in names)


def _ends(stages: Sequence[StageRun]) -> list[StageRun]:
    inner = {name for stage in stages for name in parents(stage, stages)}
    return [stage for stage in stages if stage.lineage and stage.name not in inner]


def _check(stage: StageRun, visited: set[Path], differences: Sequence[str]) -> Check:
    if not stage.lineage or stage.made.resolve() not in visited:
        return Check("unchecked")
    own = tuple(dict.fromkeys(line for line in differences if line.startswith((f"{stage.name}/", f"{stage.name}:"))))
    return Check("differs", own) if own else Check("verified")
