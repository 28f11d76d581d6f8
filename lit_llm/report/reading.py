"""A pipeline's folder as one record: what every stage left behind, tolerant of what is not there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_llm.errors import UserError
from lit_llm.report.curves import Curve, read_curves

ORDER = (
    "tokenizer",
    "pretraining",
    "continued_pretraining",
    "fine_tuning",
    "instruction_tuning",
    "rankings",
    "flag_classification",
    "reward_modeling",
    "ppo",
    "dpo",
)
"""The chain's usual order; a stage of another name comes after these, by name."""

PARENTS = {
    "pretraining": ("tokenizer",),
    "continued_pretraining": ("pretraining",),
    "fine_tuning": ("continued_pretraining",),
    "instruction_tuning": ("fine_tuning",),
    "rankings": ("instruction_tuning",),
    "flag_classification": ("instruction_tuning", "rankings"),
    "reward_modeling": ("instruction_tuning", "rankings"),
    "ppo": ("instruction_tuning", "reward_modeling"),
    "dpo": ("instruction_tuning", "rankings"),
}
"""What a stage starts from when its lineage does not say."""

MADE = ("model", ".")
"""Where in a stage's folder its lineage lies: in its model, or, where it made none (rankings), beside what it made."""


@dataclass(frozen=True)
class StageRun:
    """One stage's folder. ``metrics``, ``config`` and ``lineage`` are empty where the stage wrote none."""

    name: str
    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)

    @property
    def made(self) -> Path:
        """The folder that holds the stage's lineage: its model, or its own where it made rankings."""
        return next((self.folder / name for name in MADE if (self.folder / name).is_dir()), self.folder)


@dataclass(frozen=True)
class PipelineRun:
    """Everything that the page shows, read once."""

    folder: Path
    stages: tuple[StageRun, ...]
    ledger: dict[str, Any]
    answers: dict[str, Any]
    summary: dict[str, Any]
    win_rate: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> StageRun | None:
        return next((stage for stage in self.stages if stage.name == name), None)


def read_pipeline(folder: Path) -> PipelineRun:
    """Reads ``folder`` (outputs/pipeline/<time>). Raises UserError when it is none or a file is damaged."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a pipeline's folder, outputs/pipeline/<time>")
    names = sorted((place.name for place in folder.iterdir() if _is_stage(place)), key=_place)
    if not names:
        raise UserError(f"{folder}: no stage in it (a stage's folder has metrics.json); name outputs/pipeline/<time>")
    return PipelineRun(
        folder,
        tuple(read_stage(folder / name) for name in names),
        ledger=read_json(folder / "ledger.json"),
        answers=read_json(folder / "answers.json"),
        summary=_of_today(read_json(folder / "pipeline.json")),
        win_rate=read_json(folder / "win_rate.json"),
    )


def _of_today(summary: dict[str, Any]) -> dict[str, Any]:
    """pipeline.json with today's keys: what is ``skipped`` was ``left_out`` in older ones."""
    return {"skipped" if key == "left_out" else key: value for key, value in summary.items()}


def read_stage(folder: Path) -> StageRun:
    return StageRun(
        folder.name,
        folder,
        metrics=read_json(folder / "metrics.json"),
        config=_read_config(folder / "config.yaml"),
        lineage=next((found for name in MADE if (found := read_json(folder / name / "lineage.json"))), {}),
        curves=read_curves(folder),
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``; an empty one when there is no such file. Raises UserError when it is damaged."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); run the stage again") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds a {type(value).__name__}; it must be an object")
    return value


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from None
    return value if isinstance(value, dict) else {}


def _is_stage(place: Path) -> bool:
    marks = ("metrics.json", "model", "lineage.json")  # a folder of something else (hydra's, a user's) has none
    return place.is_dir() and any((place / mark).exists() for mark in marks)


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
