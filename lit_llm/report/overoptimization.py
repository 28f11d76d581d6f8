"""Proxy and gold reward over sqrt(KL): each policy's way, where it ended, and best-of-n as the control."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.evaluation.overoptimization import Fit, Form, fit
from lit_llm.report.charts import Line, line_chart, number
from lit_llm.report.figures import Figure
from lit_llm.report.reading import PipelineRun, read_json
from lit_llm.report.tables import Score, duration, effort_rows

REWARDS = ("proxy", "gold")
RULE = "lit_llm.feedback.rule.reward"
X_LABEL = "d = \N{SQUARE ROOT}KL, KL in nats an answer"
PROXY, GOLD, KL = "score/reward", ("score/gold", "score/rule"), "kl/answer"


@dataclass(frozen=True)
class Method:
    """A way to use the reward, at one distance from the model that it began with; values as texts."""

    name: str
    proxy: str
    gold: str
    kl: str
    seconds: str


@dataclass(frozen=True)
class Section:
    figures: tuple[Figure, ...]
    fits: tuple[str, ...]  # the fitted curves in words
    methods: tuple[Method, ...]
    gold: str  # what the gold reward is; "" where none judged
    simulated: bool  # it says what simulated annotators meant

    @property
    def title(self) -> str:
        return "Proxy and gold reward" if self.gold else "Proxy reward"


@dataclass(frozen=True)
class _Path:
    """A line of the charts: points (d, reward) by reward, with standard errors where they are known."""

    name: str
    points: Mapping[str, Sequence[tuple[float, float, float]]]
    notes: tuple[str, ...] = ()
    start: Mapping[str, float] | None = None  # the reward at d = 0, where it was measured
    form: Form = "rl"  # of the curve that is fitted


def overoptimization(run: PipelineRun) -> Section | None:
    """None where nothing was measured. Raises UserError for a damaged file."""
    control = read_json(run.folder / "best_of_n.json")
    ends = _ends(run)
    paths = [*_trained(run), *([_control(control)] if control.get("points") else []), *(_point(*end) for end in ends)]
    methods = [*_control_rows(control), *_policy_rows(run, ends)]
    judged = any(path.points.get("gold") for path in paths) or any(row.gold for row in methods)
    rule = RULE in _golds(run)
    gold = ("the simulated annotators' rule" if rule else "another reward, which was not optimised") * judged
    titles = {"proxy": "Proxy reward, which was optimised", "gold": f"Gold reward: {gold}"}
    figures = [found for key in REWARDS if (found := _figure(key, titles[key], paths)) is not None]
    if not figures and not methods:
        return None
    fits = tuple(line for path in paths for line in _fits(path))
    return Section(tuple(figures), fits, tuple(methods), gold, rule and judged)


def _golds(run: PipelineRun) -> list[str]:
    """The targets of the rewards that judged: the stages' gold, or where none has one the scorers in its place."""
    own = [(stage.config.get("stage") or {}).get("gold") for stage in run.stages]
    stand_ins = [((stage.config.get("evaluation") or {}).get("scorers") or {}).get("rule") for stage in run.stages]
    return [str(node.get("_target_")) for node in own if node] or [str(n.get("_target_")) for n in stand_ins if n]


# What was measured


def _trained(run: PipelineRun) -> Iterator[_Path]:
    """The validations of each policy while it was trained, from overoptimization.jsonl."""
    for stage in run.stages:
        rows = _read_lines(stage.folder / "overoptimization.jsonl")
        for source in dict.fromkeys(row["source"] for row in rows):
            mine = [row for row in rows if row["source"] == source]
            points = {
                key: [(math.sqrt(max(0.0, row["kl"])), row[key], math.nan) for row in mine if row.get(key) is not None]
                for key in REWARDS
            }
            yield _Path(f"{stage.name}, validation", points, tuple(f"step {row['step']}" for row in mine))


def _read_lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return [{**row, "kl": float(row["kl"]), "source": str(row["source"]), "step": int(row["step"])} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not readable as lines of JSON ({error}); run the stage again") from None


def _control(control: Mapping[str, Any]) -> _Path:
    points = control["points"]
    found = {key: [(math.sqrt(p["kl"]), *_mean_and_error(p[key])) for p in points if p.get(key)] for key in REWARDS}
    start = {key: values[0][1] for key, values in found.items() if values and values[0][0] == 0}
    return _Path("best of n", found, tuple(f"n = {p['n']}" for p in points), start, "best_of_n")


def _ends(run: PipelineRun) -> list[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """(stage, {measure: estimate}) of every policy that the ledger has a KL of, on held-out prompts."""
    found: dict[str, dict[str, Any]] = {}
    for entry in run.ledger.get("entries") or []:
        if entry["metric"] in (PROXY, KL, *GOLD) and entry.get("after"):
            found.setdefault(entry["stage"], {}).setdefault(entry["metric"], entry["after"])
    return [(stage, values) for stage, values in found.items() if KL in values and PROXY in values]


def _point(stage: str, values: Mapping[str, Mapping[str, Any]]) -> _Path:
    d = math.sqrt(max(0.0, values[KL]["mean"] or 0.0))
    gold = _gold_of(values)
    points = {"proxy": [(d, *_mean_and_error(values[PROXY]))], "gold": [(d, *_mean_and_error(gold))] if gold else []}
    return _Path(f"{stage}, held out", points, ("its end",))


def _gold_of(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((values[name] for name in GOLD if name in values), None)


def _mean_and_error(value: Mapping[str, Any]) -> tuple[float, float]:
    mean, se = (math.nan if value.get(key) is None else float(value[key]) for key in ("mean", "se"))
    return mean, se


# How it is shown


def _figure(key: str, title: str, paths: Sequence[_Path]) -> Figure | None:
    lines, rows = [], []
    for path in paths:
        points = [(d, value, error) for d, value, error in path.points.get(key, ()) if math.isfinite(value)]
        if not points:
            continue
        notes = path.notes if len(path.notes) == len(points) else ()
        lines.append(Line(path.name, tuple((d, v) for d, v, _ in points), notes, errors=tuple(e for *_, e in points)))
        rows += [(path.name, number(d), _with_error(v, e)) for d, v, e in points]
    if not lines:
        return None
    svg = line_chart(title, lines, x_label=X_LABEL)
    return Figure(title, svg, ("of", "d", key), tuple(rows), legend=tuple(line.label for line in lines))


def _fits(path: _Path) -> Iterator[str]:
    """The curve of least squares, where there are points enough."""
    for key in REWARDS:
        points = path.points.get(key, ())
        found = fit([d for d, *_ in points], [v for _, v, _ in points], (path.start or {}).get(key), path.form)
        if found is not None:
            yield f"{path.name}, {key}: {_in_words(found)}"


def _in_words(found: Fit) -> str:
    quality = f"R\N{SUPERSCRIPT TWO} {number(found.r2)}" if math.isfinite(found.r2) else "no variation"
    peak = f"; largest at d = {number(found.peak)}" if found.peak is not None and found.peak < 100 else ""
    bend = "d" if found.form == "best_of_n" else "ln d"
    curve = f"R = {number(found.start)} + d ({number(found.alpha)} - {number(found.beta)} {bend})"
    return f"{curve}, {quality} over {found.n} points{peak}"


def _control_rows(control: Mapping[str, Any]) -> Iterator[Method]:
    points = control.get("points") or []
    for point in points[:1] + points[-1:] if len(points) > 1 else points:
        name = "one answer" if point["n"] == 1 else f"best of {point['n']}"
        gold = _with_error(*_mean_and_error(point["gold"])) if point.get("gold") else ""
        took = duration(float(control["seconds"])) if point["n"] > 1 and control.get("seconds") else ""
        proxy = _with_error(*_mean_and_error(point["proxy"]))
        yield Method(f"{control.get('model', '')}: {name}", proxy, gold, number(point["kl"]), took)


def _policy_rows(run: PipelineRun, ends: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Method]:
    took = {row.stage: row.seconds for row in effort_rows(run.stages, run.summary)}
    for stage, values in ends:
        gold = _gold_of(values)
        yield Method(
            stage,
            _with_error(*_mean_and_error(values[PROXY])),
            _with_error(*_mean_and_error(gold)) if gold else "",
            _with_error(*_mean_and_error(values[KL])),
            duration(took[stage]) if took.get(stage) else "",
        )


def _with_error(mean: float, error: float) -> str:
    if not math.isfinite(mean):
        return ""
    return Score(mean, error if math.isfinite(error) else None, None).text
