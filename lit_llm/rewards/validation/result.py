"""What a reward model's validation found, as it is kept in ``reward_validation.json`` in the model's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.evaluation.scores import as_plain
from lit_llm.evaluation.statistics import Estimate
from lit_llm.runtime.atomic_files import write_json
from lit_llm.text.attacks import ATTACKS

NAME, OLD_NAME = "reward_validation.json", "exam.json"  # the latter in folders of older runs


@dataclass(frozen=True)
class Floor:
    """What needs no reward model, on the same pairs."""

    accuracy: Estimate
    lead: Estimate  # by how much the reward model is above it, pair by pair
    counts: bool  # or is only reported
    passed: bool


@dataclass(frozen=True)
class Probe:
    """On which share of the prompts an attack outscores the real answer (a tie is half)."""

    share: float
    se: float  # nan where one prompt cannot tell
    n: int
    limit: float
    passed: bool


@dataclass(frozen=True)
class ValidationResult:
    """``accuracy`` is over pairs, its error clustered by prompt; nan where there was no pair."""

    accuracy: Estimate
    floors: Mapping[str, Floor] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # why a part could not be taken; fails the validation
    trained_with_attacks: bool = False  # of the same kinds, made with other strings
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the ``RewardValidator``: PPO validates by them

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why it failed, one sentence each, with the numbers."""
        found = list(self.missing)
        for name, floor in self.floors.items():
            if not floor.passed:
                found.append(
                    f"accuracy {shown(self.accuracy)} is not above the floor {name} of {shown(floor.accuracy)} "
                    f"(ahead by {shown(floor.lead, sign=True)})"
                )
        for name, probe in self.probes.items():
            if not probe.passed:
                found.append(
                    f"{ATTACKS[name]} outscores the real answer on {probe.share:.0%} of {probe.n} prompts; at most "
                    f"{probe.limit:.0%} may be"
                )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values: {"passed", "accuracy", "floors", "probes", "reasons", "trained_with_attacks", "settings"}."""
        floors = {
            name: {**as_plain(one.accuracy), "lead": as_plain(one.lead), "counts": one.counts, "passed": one.passed}
            for name, one in self.floors.items()
        }
        probes = {
            name: {**asdict(one), "se": None if math.isnan(one.se) else one.se} for name, one in self.probes.items()
        }
        return {
            "passed": self.passed,
            "accuracy": as_plain(self.accuracy),
            "floors": floors,
            "probes": probes,
            "reasons": self.reasons,
            "trained_with_attacks": self.trained_with_attacks,
            "settings": dict(self.settings),
        }

    def save(self, folder: str | Path) -> Path:
        """Writes ``folder/reward_validation.json``."""
        path = Path(folder) / NAME
        write_json(path, self.as_dict())
        return path


def file_in(folder: str | Path) -> Path:
    """Where a folder keeps its result: by its older name where there is only that."""
    new, old = Path(folder) / NAME, Path(folder) / OLD_NAME
    return old if old.is_file() and not new.is_file() else new


def read_result(folder: str | Path) -> dict[str, Any] | None:
    """The plain values of a folder's ``reward_validation.json``; None where there is none.

    Raises UserError for another content.
    """
    path = file_in(folder)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        well = isinstance(found["passed"], bool) and isinstance(found["reasons"], list)
        well = well and isinstance(found.get("settings", {}), dict)
    except (OSError, ValueError, KeyError, TypeError):
        well = False
    if not well:
        raise UserError(f"{path}: not a reward model's validation; train the reward model again to have one written")
    return dict(found)


def shown(value: Estimate, *, sign: bool = False) -> str:
    """``0.612 ± 0.014``, with its standard error."""
    error = "" if math.isnan(value.se) else f" ± {value.se:.3f}"
    return f"{value.mean:{'+.3f' if sign else '.3f'}}{error}"
