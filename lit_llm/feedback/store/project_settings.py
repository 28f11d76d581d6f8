"""What a project is set to, and what the values must be."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store.flag_kinds import FLAG_KINDS
from lit_llm.feedback.store.storable import unstorable
from lit_llm.feedback.store.tables import ProjectRow


@dataclass(frozen=True)
class ProjectSettings:
    title: str = "Ranking"
    instructions: str = ""  # what annotators are told, plain text
    kind: Literal["ranking", "comparison"] = "ranking"  # comparison: exactly two candidates an item
    overlap: int = 1  # annotators per item
    repeat_share: float = 0.05  # of an annotator's items, those that they have ranked before
    gold_share: float = 0.05  # of an annotator's items, those whose ranking is known
    min_seconds: float = 5.0  # a ranking given faster is marked too_fast
    lease_minutes: float = 30.0  # how long an item is held for an annotator who is silent
    flag_kinds: tuple[str, ...] = tuple(FLAG_KINDS)
    allow_ties: bool = True
    ratings: bool = True  # whether answers can be rated as helpful, honest and harmless besides being ranked
    target_rankings: int | None = None  # when the project has enough; None: every item's overlap
    seed: int = 0  # of the orders shown, and of where gold items and repeats come

    def __post_init__(self) -> None:
        """Raises UserError, naming the setting, for a value that cannot be."""
        for name, ok, wanted in _rules(self):
            if not ok:
                raise UserError(f"{name}={getattr(self, name)!r}: must be {wanted}")


def settings_in(session: Session) -> ProjectSettings:
    """Raises UserError when the database holds no project yet."""
    kept = session.scalar(select(ProjectRow.settings))
    if kept is None:
        raise UserError("the database holds no project yet; rank.py model=... prompts=... makes one")
    names = {f.name for f in dataclasses.fields(ProjectSettings)}
    values: dict[str, Any] = {
        name: tuple(value) if name == "flag_kinds" else value for name, value in kept.items() if name in names
    }
    return ProjectSettings(**values)


def _rules(of: ProjectSettings) -> list[tuple[str, bool, str]]:
    def share(value: object) -> bool:
        return _number(value) and 0 <= float(value) < 1  # type: ignore[arg-type]

    unknown = [kind for kind in of.flag_kinds if kind not in FLAG_KINDS]
    return [
        ("title", unstorable(of.title, 200) is None and bool(of.title.strip()), "a text of 1 to 200 characters"),
        ("instructions", unstorable(of.instructions, 20_000) is None, "a text of at most 20,000 characters"),
        ("kind", of.kind in ("ranking", "comparison"), "ranking or comparison"),
        ("overlap", _whole(of.overlap) and of.overlap >= 1, "a whole number of at least 1"),
        ("repeat_share", share(of.repeat_share), "a share from 0 to below 1"),
        ("gold_share", share(of.gold_share), "a share from 0 to below 1"),
        ("gold_share", of.gold_share + of.repeat_share < 1, "below 1 together with repeat_share"),
        ("min_seconds", _number(of.min_seconds) and of.min_seconds >= 0, "0 or more seconds"),
        ("lease_minutes", _number(of.lease_minutes) and of.lease_minutes > 0, "more than 0 minutes"),
        ("flag_kinds", not unknown, f"among {', '.join(FLAG_KINDS)}"),
        ("target_rankings", of.target_rankings is None or _whole(of.target_rankings), "a whole number or none"),
        ("seed", _whole(of.seed), "a whole number"),
    ]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
