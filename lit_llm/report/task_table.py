"""Tasks of lm-evaluation-harness as rows: each stage's score beside that of the model it started from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_llm.evaluation.task_changes import task_changes
from lit_llm.report.ledger_table import VERDICTS, p_value
from lit_llm.report.reading import PipelineRun
from lit_llm.report.tables import SIGNS, Score, Verdict, score
from lit_llm.report.verification import parents
from lit_llm.runtime.atomic_files import write_json


@dataclass(frozen=True)
class TaskRow:
    """``asked``: the examples before each question and the limit of items, where there are any."""

    stage: str
    task: str
    asked: str
    metric: str
    before: Score | None
    after: Score
    change: str
    certainty: str
    verdict: Verdict

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]


def entries(run: PipelineRun) -> list[dict[str, Any]]:
    """``task_changes`` of a pipeline's stages. A stage's first parent is the model that it started from."""
    stages = {stage.name: (next(iter(parents(stage, run.stages)), None), stage.folder) for stage in run.stages}
    return task_changes(stages)


def task_rows(found: list[dict[str, Any]]) -> list[tuple[str, list[TaskRow]]]:
    """(stage, its rows) of the stages that were asked. ``found``: of ``entries``."""
    rows: dict[str, list[TaskRow]] = {}
    for entry in found:
        after = score(entry["after"])
        if after is not None:
            rows.setdefault(entry["stage"], []).append(_row(entry, after))
    return list(rows.items())


def _row(entry: Mapping[str, Any], after: Score) -> TaskRow:
    change, p = score(entry["change"]), entry["p_adjusted"]  # never the plain one: a column holds one kind of p
    certainty = [change.error] if change is not None and change.error else []
    certainty += [p_value(p)] if change is not None and isinstance(p, int | float) else []
    return TaskRow(
        entry["stage"],
        entry["set"],
        ", ".join(_asked(entry)),
        entry["metric"],
        score(entry["before"]),
        after,
        change.signed if change else "",
        ", ".join(certainty),
        VERDICTS.get(str(entry["verdict"]), "neutral"),
    )


def _asked(entry: Mapping[str, Any]) -> list[str]:
    told = [f"version {entry['version']}"] if entry["version"] else []
    told += [f"{entry['num_fewshot']} examples before each"] if entry["num_fewshot"] else []
    told += [f"limit {entry['limit']}"] if entry["limit"] is not None else []
    return [*told, *(["chat"] if entry["chat"] else [])]


def write_into_ledger(folder: Path, found: list[dict[str, Any]]) -> None:
    """Puts ``entries`` into the ledger.json of a pipeline's folder, where there is one."""
    file = folder / "ledger.json"
    if file.is_file():
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "tasks": found})
