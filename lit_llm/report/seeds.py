"""The same pipeline with several seeds: every held-out measure as mean and range, so that noise shows as what it is.

``scripts/pipeline.py --multirun seed=0,1,2`` prints this table at its end and keeps it as ``over_seeds.md``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.evaluation.scores import direction
from lit_llm.report.reading import PipelineRun, read_json, read_pipeline
from lit_llm.report.tables import heldout_rows, score

FILE = "over_seeds.md"


@dataclass(frozen=True)
class Spread:
    """One number of several runs: mean, lowest, highest."""

    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class SeedRow:
    """One measure of one stage over the seeds. ``holds``: whether every seed changed it for the better (True), every
    one for the worse (False), or the sign differs between seeds, or more is neither better nor worse (None)."""

    stage: str
    measure: str
    before: Spread | None
    after: Spread
    change: Spread | None
    holds: bool | None
    seeds: int
    error: float | None  # the standard error that one run gives for itself, as root mean square: the items' noise

    @property
    def verdict(self) -> str:
        if self.change is None:
            return ""
        if self.holds is None:
            return "differs by seed" if direction(self.measure.split("/")[-1]) else ""
        return "better in all" if self.holds else "worse in all"


def spread(values: Iterable[float]) -> Spread:
    """Mean, lowest and highest of at least one value."""
    found = list(values)
    return Spread(sum(found) / len(found), min(found), max(found))


def seed_rows(runs: Sequence[PipelineRun]) -> list[SeedRow]:
    """A row for each held-out measure that every run has, in the order of the chain; best-of-n last."""
    found: dict[tuple[str, str], list[tuple[float | None, float, float | None]]] = defaultdict(list)
    for run in runs:
        for key, before, after, error in _measures(run):
            found[key].append((before, after, error))
    rows = []
    for (stage, measure), triples in found.items():
        if len(triples) == len(runs):
            rows.append(_row(stage, measure, triples))
    return rows


def _measures(run: PipelineRun) -> Iterator[tuple[tuple[str, str], float | None, float, float | None]]:
    for row in heldout_rows(run.stages):
        before = None if row.before is None else row.before.mean
        yield (row.stage, f"{row.set}/{row.metric}"), before, row.after.mean, row.after.se
    points = read_json(run.folder / "best_of_n.json").get("points") or []
    if points:
        first, last = points[0], points[-1]
        for measure in ("proxy", "gold"):
            one, best = score(first.get(measure)), score(last.get(measure))
            if one is not None and best is not None:
                yield (f"best of {last['n']}", f"prompts/{measure}"), one.mean, best.mean, best.se


def _row(stage: str, measure: str, triples: Sequence[tuple[float | None, float, float | None]]) -> SeedRow:
    befores = [before for before, _, _ in triples if before is not None]
    changes = [after - before for before, after, _ in triples if before is not None]
    errors = [error for _, _, error in triples if error is not None]
    known = len(changes) == len(triples)
    signs = {(value > 0) - (value < 0) for value in changes}
    good = direction(measure.split("/")[-1])
    return SeedRow(
        stage,
        measure,
        before=spread(befores) if known else None,
        after=spread(after for _, after, _ in triples),
        change=spread(changes) if known else None,
        holds=signs == {good} if known and good and len(signs) == 1 and 0 not in signs else None,
        seeds=len(triples),
        error=sqrt(sum(e * e for e in errors) / len(errors)) if errors else None,
    )


def markdown(runs: Sequence[PipelineRun]) -> str:
    """The table as Markdown, under one line that says what the numbers are."""
    rows = seed_rows(runs)
    lines = [
        f"{len(runs)} seeds: mean (lowest to highest) on held-out items; the error is one run's own, of its items.",
        "",
        "| stage | measure | before | after | change | error | over the seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, change = (value.text if value else "" for value in (row.before, row.change))
        error = "" if row.error is None else f"± {row.error:.3f}"
        lines.append(
            f"| {row.stage} | {row.measure} | {before} | {row.after.text} | {change} | {error} | {row.verdict} |"
        )
    for name, seconds in _seconds(runs).items():
        lines.append(f"| {name} | seconds | | {seconds.mean:.0f} ({seconds.low:.0f} to {seconds.high:.0f}) | | | |")
    lines += _skipped(runs)
    return "\n".join(lines) + "\n"


def _skipped(runs: Sequence[PipelineRun]) -> Iterator[str]:
    """A step that some seed's chain had to do without (a reward model that failed its validation), and why."""
    for run in runs:
        for name, reason in (run.summary.get("skipped") or {}).items():
            yield f"\n{run.folder.name}: {name} was left out, so it has no row: {reason}"


def _seconds(runs: Sequence[PipelineRun]) -> dict[str, Spread]:
    """How long each step took, where no run took it from the cache; and the whole."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        steps: Mapping[str, Any] = run.summary.get("stages") or {}
        for name, step in steps.items():
            if step.get("seconds") is not None and not step.get("reused"):
                found[name].append(float(step["seconds"]))
        if run.summary.get("seconds") is not None and not any(step.get("reused") for step in steps.values()):
            found["all steps"].append(float(run.summary["seconds"]))
    return {name: spread(values) for name, values in found.items() if len(values) == len(runs)}


def write_over_seeds(sweep: Path, folders: Sequence[Path]) -> Path:
    """Read finished pipelines' ``folders`` and write the table into the folder ``sweep``.

    Raises UserError when fewer than two are given, or one is no pipeline's folder.
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} pipelines: a range over seeds needs at least two")
    (sweep / FILE).write_text(markdown([read_pipeline(folder) for folder in folders]), encoding="utf-8")
    return sweep / FILE
