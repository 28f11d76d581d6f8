"""ledger.json as a table: held-out sets down, stages across, each cell the change from the stage's parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_llm.report.charts import number
from lit_llm.report.tables import SIGNS, Score, Verdict, direction, score, signed, verdict

WORDS = (
    "Every stage, examined on the held-out sets of every stage before it, item by item against the model it started "
    "from. ▲ gained and ▼ lost are changes that a paired test does not take for noise; = is within the noise."
)


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
class LedgerTable:
    words: str
    stages: tuple[str, ...]
    rows: tuple[LedgerRow, ...]


def ledger_table(ledger: Mapping[str, Any]) -> LedgerTable | None:
    """None when there is no ledger. ``ledger``: {"entries": [{"stage", "set", "metric", "after", ...}]}."""
    entries: Sequence[Mapping[str, Any]] = ledger.get("entries") or []
    stages = tuple(ledger.get("stages") or dict.fromkeys(str(entry["stage"]) for entry in entries))
    cells = {(entry["set"], entry["metric"], entry["stage"]): _cell(entry) for entry in entries}
    lines = dict.fromkeys((entry["set"], entry["metric"]) for entry in entries)
    rows = [LedgerRow(*line, tuple(cells.get((*line, stage)) for stage in stages)) for line in lines]
    return LedgerTable(WORDS, stages, tuple(rows)) if rows else None


def _cell(entry: Mapping[str, Any]) -> Cell | None:
    after, before, change = score(entry.get("after")), score(entry.get("before")), score(entry.get("change"))
    if after is None:
        return None
    if change is None and before is not None:
        change = Score(after.mean - before.mean, None, None)
    p = entry.get("p")
    certainty = [f"± {number(change.se)}"] if change is not None and change.se is not None else []
    certainty += [p_value(p)] if isinstance(p, int | float) else []
    hover = [f"after {after.text}", f"before {before.text}" if before else "", f"{after.n} items" if after.n else ""]
    hover += [f"change {signed(change.mean)}" if change else "", *certainty, str(entry.get("test") or "")]
    return Cell(
        after.text,
        signed(change.mean) if change else "",
        ", ".join(certainty),
        "; ".join(text for text in hover if text),
        _verdict(entry, before, after),
    )


def _verdict(entry: Mapping[str, Any], before: Score | None, after: Score) -> Verdict:
    """The ledger's own word where it has one."""
    said = {"gained": "better", "better": "better", "lost": "worse", "forgot": "worse", "worse": "worse"}
    if entry.get("verdict") is not None:
        return said.get(str(entry["verdict"]), "same")  # type: ignore[return-value]
    return verdict(str(entry["metric"]), before, after) if direction(str(entry["metric"])) else "neutral"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
