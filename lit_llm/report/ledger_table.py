"""ledger.json as a table: held-out sets down, stages across, each cell the change from the stage's parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_llm.report.charts import number
from lit_llm.report.tables import SIGNS, Score, Verdict, score
from lit_llm.report.terms import rank

WORDS = (
    "Every stage on the held-out data of all stages before it, item by item against the model it started from. "
    "▲ gained and ▼ lost pass a paired test, adjusted for the number of tests, and are larger than the noise; = is not."
)
VERDICTS: dict[str, Verdict] = {"gained": "better", "lost": "worse", "same": "same"}


@dataclass(frozen=True)
class Cell:
    value: str
    change: str
    certainty: str
    hover: str
    verdict: Verdict

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class LedgerRow:
    set: str
    metric: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Part:
    """Rows, and the stages that at least one of them has a number for."""

    stages: tuple[str, ...]
    rows: tuple[LedgerRow, ...]


@dataclass(frozen=True)
class LedgerTable:
    words: str
    stages: tuple[str, ...]
    rows: tuple[LedgerRow, ...]

    @property
    def main(self) -> Part:
        """Of each set the measure that comes first in ``RANK`` of those that are compared; all where none is."""
        return _part(self.stages, _main(self.rows) or self.rows)

    @property
    def rest(self) -> Part | None:
        """All other rows; None where there are none."""
        shown = _main(self.rows) or self.rows
        rows = [row for row in self.rows if row not in shown]
        return _part(self.stages, rows) if rows else None


def ledger_table(ledger: Mapping[str, Any]) -> LedgerTable | None:
    """None when there is no ledger. ``ledger``: as ``lit_llm.evaluation.ledger.Ledger.as_json`` gives it."""
    entries: Sequence[Mapping[str, Any]] = ledger.get("entries") or []
    stages = tuple(ledger.get("stages") or dict.fromkeys(str(entry["stage"]) for entry in entries))
    cells = {(entry["set"], entry["metric"], entry["stage"]): _cell(entry) for entry in entries}
    lines = dict.fromkeys((entry["set"], entry["metric"]) for entry in entries)
    rows = [LedgerRow(*line, tuple(cells.get((*line, stage)) for stage in stages)) for line in lines]
    return LedgerTable(WORDS, stages, tuple(rows)) if rows else None


def _main(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    compared = [row for row in rows if any(cell is not None and cell.change for cell in row.cells)]
    sets = dict.fromkeys(row.set for row in compared)
    return [min((row for row in compared if row.set == name), key=lambda row: rank(row.metric)) for name in sets]


def _part(stages: Sequence[str], rows: Sequence[LedgerRow]) -> Part:
    filled = [i for i in range(len(stages)) if any(row.cells[i] is not None for row in rows)]
    cut = tuple(LedgerRow(row.set, row.metric, tuple(row.cells[i] for i in filled)) for row in rows)
    return Part(tuple(stages[i] for i in filled), cut)


def _cell(entry: Mapping[str, Any]) -> Cell | None:
    after, before, change = score(entry.get("after")), score(entry.get("before")), score(entry.get("change"))
    if after is None:
        return None
    p = entry.get("p_adjusted") if entry.get("p_adjusted") is not None else entry.get("p")
    certainty = [change.error] if change is not None and change.error else []
    certainty += [p_value(p)] if change is not None and isinstance(p, int | float) else []
    return Cell(
        after.text,
        change.signed if change else "",
        ", ".join(certainty),
        "; ".join(_hover(entry, after, before, change)),
        VERDICTS.get(str(entry.get("verdict")), "neutral"),
    )


def _hover(entry: Mapping[str, Any], after: Score, before: Score | None, change: Score | None) -> Iterator[str]:
    if before is None or change is None:
        yield f"{after.text}, {after.n} items"
        return
    yield f"before {before.text}, after {after.text}, change {change.signed}"
    yield f"{change.n} items, {entry.get('improved', 0)} better, {entry.get('worsened', 0)} worse"
    if entry.get("test"):
        yield f"{entry['test']}: {p_value(entry['p'])}"
    if isinstance(entry.get("p_adjusted"), int | float):
        yield f"{p_value(entry['p_adjusted'])} adjusted"
    if isinstance(entry.get("noise_floor"), int | float):
        yield f"noise floor {number(entry['noise_floor'])}"
    if sources := [one["source"] for one in entry.get("worst") or () if one.get("source")]:
        yield f"lost most: {', '.join(sources)}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
