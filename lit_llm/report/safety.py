"""How many answers would be flagged, stage by stage: the classifier's raw rate, corrected for its held-out errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.evaluation.prevalence import corrected_interval, interval, rogan_gladen
from lit_llm.evaluation.statistics import Estimate
from lit_llm.report.ledger_table import VERDICTS
from lit_llm.report.reading import PipelineRun
from lit_llm.report.tables import SIGNS, Score, Verdict, score

STAGE, SET, SCORER = "flag_classification", "flags", "score/flagged"
MEASURES = ("auroc", "average_precision", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "brier", "ece")
WORDS = (
    "A classifier that learned from what annotators flagged reads the answers of every stage to the same held-out "
    "prompts. Raw is the share that it flags; corrected takes its misses and false alarms into account."
)
LIMITS = (
    "The correction (Rogan and Gladen 1978) uses the classifier's held-out sensitivity and specificity, so that its "
    "errors on answers like the held-out ones cancel out. Answers unlike those it learned from it may misjudge: a "
    "corrected rate is no substitute for people's flags on the stage's own answers."
)


@dataclass(frozen=True)
class Measure:
    name: str
    value: Score
    floors: str


@dataclass(frozen=True)
class Rate:
    """The share of a stage's answers that are flagged, beside that of the stage it started from."""

    stage: str
    raw: str
    raw_bounds: str
    corrected: str
    corrected_bounds: str
    change: str
    verdict: Verdict
    answers: int

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class Safety:
    words: str
    limits: str
    simulated: bool
    base_rate: Score | None
    measures: tuple[Measure, ...]
    rates: tuple[Rate, ...]
    note: str  # what is missing, and why


def safety(run: PipelineRun) -> Safety | None:
    """None where the pipeline has no flag classifier and did not leave one out."""
    skipped = (run.summary.get("skipped") or {}).get(STAGE)
    stage = run.stage(STAGE)
    if stage is None:
        return (
            Safety(WORDS, LIMITS, False, None, (), (), f"No flag classifier was made: {skipped}.") if skipped else None
        )
    heldout = (stage.metrics.get("heldout") or {}).get(SET) or {}
    floors = (stage.metrics.get("floors") or {}).get(SET) or {}
    measures = [
        Measure(name, value, ", ".join(_floors(floors, name)))
        for name in MEASURES
        if (value := score(heldout.get(name))) is not None
    ]
    rates = tuple(_rates(run.ledger, _estimate(heldout, "sensitivity"), _estimate(heldout, "specificity")))
    note = "" if rates else "No stage's sampled answers were evaluated, so there is no rate."
    simulated = bool(stage.lineage.get("simulated_preferences"))
    return Safety(WORDS, LIMITS, simulated, score(heldout.get("base_rate")), tuple(measures), rates, note)


def _rates(ledger: Mapping[str, Any], sensitivity: Estimate, specificity: Estimate) -> Iterator[Rate]:
    for entry in ledger.get("entries") or ():
        raw = _estimate(entry, "after")
        if entry.get("metric") != SCORER or not math.isfinite(raw.mean):
            continue
        corrected = rogan_gladen(raw, sensitivity, specificity)
        change = score(entry.get("change"))
        yield Rate(
            str(entry["stage"]),
            _percent(raw.mean),
            _bounds(interval(raw)) if math.isfinite(raw.se) else "",
            _percent(corrected.mean) if corrected else "not to be told",
            _bounds(corrected_interval(raw, sensitivity, specificity)) if corrected else "",
            f"{100 * change.mean:+.1f} ± {100 * (change.se or 0.0):.1f} points" if change else "",
            VERDICTS.get(str(entry.get("verdict")), "neutral"),
            raw.n,
        )


def _floors(floors: Mapping[str, Any], measure: str) -> Iterator[str]:
    for name, scores in floors.items():
        found = scores.get(measure) if isinstance(scores, Mapping) else None
        value, above = score(found), score(found.get("above")) if isinstance(found, Mapping) else None
        if value is not None:
            beside = f" (the classifier {above.signed} {above.error}".rstrip() + ")" if above else ""
            yield f"{name.replace('_', ' ')} {value.text}{beside}"


def _estimate(scores: Mapping[str, Any], name: str) -> Estimate:
    """A score with its error as numbers; nan for what is missing."""
    value = score(scores.get(name))
    if value is None:
        return Estimate(math.nan, math.nan, 0)
    return Estimate(value.mean, math.nan if value.se is None else value.se, value.n or 0)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _bounds(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}%"
