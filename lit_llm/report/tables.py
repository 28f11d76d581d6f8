"""The page's tables as plain rows: sizes and times, held-out scores before and after, floors, counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10, sqrt
from typing import Any, Literal

from lit_llm.evaluation.scores import direction
from lit_llm.report.charts import number
from lit_llm.report.reading import StageRun
from lit_llm.runtime.counted import counted

Verdict = Literal["better", "worse", "same", "neutral"]
SIGNS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "same": "=", "neutral": ""}

NOISE = 2.0  # standard errors: a smaller change is not called one


@dataclass(frozen=True)
class Score:
    mean: float
    se: float | None
    n: int | None

    @property
    def digits(self) -> int | None:
        """Decimals that the standard error leaves meaningful: those of its own first two digits."""
        return max(0, min(7, 1 - floor(log10(self.se)))) if self.se else None

    @property
    def rounded(self) -> str:
        if self.digits is None:
            return number(self.mean)
        return f"{self.mean:.{self.digits}f}".replace("-", "\N{MINUS SIGN}")

    @property
    def error(self) -> str:
        return "" if self.se is None else f"± {self.se:.{self.digits or 0}f}"

    @property
    def text(self) -> str:
        return f"{self.rounded} {self.error}".rstrip()

    @property
    def signed(self) -> str:
        """As a difference: with its sign, also when it is above zero."""
        return ("+" if self.mean > 0 else "") + self.rounded


@dataclass(frozen=True)
class Floor:
    """What a rule without a model has on the same items. ``above``: how much more the model has, where it is known."""

    name: str
    value: Score
    above: Score | None

    @property
    def text(self) -> str:
        beside = f" (the model {self.above.signed} {self.above.error}".rstrip() + ")" if self.above else ""
        return f"{self.name} {self.value.text}{beside}"


@dataclass(frozen=True)
class HeldoutRow:
    stage: str
    set: str
    metric: str
    before: Score | None
    after: Score
    change: str
    verdict: Verdict
    every_floor: tuple[Floor, ...] = ()

    @property
    def floors(self) -> str:
        return ", ".join(one.text for one in self.every_floor)

    @property
    def floor(self) -> Floor | None:
        """The one that is hardest to beat."""
        good = direction(self.metric)
        return max(self.every_floor, key=lambda one: one.value.mean * good, default=None) if good else None

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class EffortRow:
    stage: str
    seconds: float
    tokens: float
    steps: float
    parameters: float
    share: float  # of all seconds, 0 to 1
    reused: bool = False  # taken from the cache: the time is that of the run that made it


@dataclass(frozen=True)
class CountRow:
    """What a stage did with its data. ``why``: the reasons of what was skipped; ``rest``: all else, (what, value)."""

    stage: str
    read: str
    used: str
    skipped: str
    why: str
    rest: tuple[tuple[str, str], ...]


def score(value: Any) -> Score | None:
    """A score out of metrics.json: {"mean", "se", "n"} or a bare number; None for what is neither or not finite."""
    if isinstance(value, Mapping):
        mean, se, n = value.get("mean"), value.get("se"), value.get("n")
    else:
        mean, se, n = value, None, None
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not isfinite(mean):
        return None
    good = isinstance(se, int | float) and isfinite(se)
    return Score(float(mean), float(se) if good else None, int(n) if isinstance(n, int | float) else None)  # type: ignore[arg-type]


def verdict(metric: str, before: Score | None, after: Score) -> Verdict:
    """Whether a change is more than ``NOISE`` standard errors of a difference of independent means, which is more
    careful than the ledger's paired tests."""
    if before is None or direction(metric) == 0:
        return "neutral"
    return beyond(metric, difference(before, after))


def beyond(metric: str, change: Score) -> Literal["better", "worse", "same"]:
    """What a change of a measure is, for one that has a good direction."""
    if abs(change.mean) <= NOISE * (change.se or 0.0):
        return "same"
    return "better" if change.mean * direction(metric) > 0 else "worse"


def heldout_rows(stages: Sequence[StageRun]) -> Iterator[HeldoutRow]:
    """Each stage's own held-out scores, beside those of the model it started from."""
    for stage in stages:
        before, floors = stage.metrics.get("before") or {}, stage.metrics.get("floors") or {}
        for name, scores in (stage.metrics.get("heldout") or {}).items():
            for metric, value in scores.items() if isinstance(scores, Mapping) else ():
                after = score(value)
                if after is not None:
                    old = score((before.get(name) or {}).get(metric))
                    change = difference(old, after).signed if old else ""
                    every = tuple(_floors(floors.get(name) or {}, metric))
                    yield HeldoutRow(stage.name, name, metric, old, after, change, verdict(metric, old, after), every)


def _floors(floors: Mapping[str, Any], metric: str) -> Iterator[Floor]:
    for name, scores in floors.items():
        found = scores.get(metric) if isinstance(scores, Mapping) and "mean" not in scores else scores
        value, above = score(found), score(found.get("above")) if isinstance(found, Mapping) else None
        if value is not None:
            yield Floor(name.replace("_", " "), value, above)


def difference(before: Score, after: Score) -> Score:
    """Of two means taken as independent."""
    both = before.se is not None and after.se is not None
    error = sqrt((before.se or 0.0) ** 2 + (after.se or 0.0) ** 2) if both else None
    return Score(after.mean - before.mean, error, after.n)


def effort_rows(stages: Sequence[StageRun], summary: Mapping[str, Any]) -> list[EffortRow]:
    """``summary``: pipeline.json, which knows what was reused and how long steps without metrics took."""
    known = summary.get("stages") or {}
    step = {stage.name: known.get(stage.name) or {} for stage in stages}
    seconds = {s.name: _plain(s.metrics.get("seconds")) or _plain(step[s.name].get("seconds")) for s in stages}
    total = sum(seconds.values()) or 1.0
    rows = []
    for stage in stages:
        tokens, steps, size = (_plain(stage.metrics.get(key)) for key in ("tokens", "steps", "parameters"))
        took, reused = seconds[stage.name], bool(step[stage.name].get("reused"))
        rows.append(EffortRow(stage.name, took, tokens, steps, size, took / total, reused))
    return rows


def count_rows(stages: Sequence[StageRun]) -> Iterator[CountRow]:
    """One row for each stage that counted its data."""
    for stage in stages:
        counts = stage.metrics.get("counts") or {}
        if not counts:
            continue
        read, used = (_count(counts[key]) if key in counts else "" for key in ("read", "used"))
        skipped = list(_flat(counts["skipped"])) if isinstance(counts.get("skipped"), Mapping) else []
        total = _count(sum(n for _, n in skipped if isinstance(n, int))) if "skipped" in counts else ""
        why = ", ".join(f"{name} {_count(n)}" for name, n in skipped)
        rest = {key: value for key, value in counts.items() if key not in ("read", "used", "skipped")}
        data = stage.metrics.get("data") or {}
        rest |= {kind: _of_kind(one) for kind, one in (data.get("kinds") or {}).items()}
        rest |= {key: _of_kind(one["all"]) for key, one in (data.get("beside") or {}).items()}
        rest |= {"vocabulary": stage.metrics["vocabulary"]} if "vocabulary" in stage.metrics else {}
        yield CountRow(stage.name, read, used, total, why, tuple((k, _count(v)) for k, v in _flat(rest)))


def _of_kind(one: Mapping[str, Any]) -> str:
    """A kind of files in the words of the table that is printed before training."""
    said = [counted(one[f"{noun}s"], noun) for noun in ("file", "row", "word", "token")]
    said += [f"{one['heldout_share']:.1%} held out", counted(one["duplicates"], "duplicate")]
    said += [f"{counted(number, 'file')} not read: {why}" for why, number in one["unread_files"].items()]
    said += [f"{counted(number, 'file')} read in part: {why}" for why, number in (one.get("broken_off") or {}).items()]
    return ", ".join([*said, *(f"{name} {number:,}" for name, number in (one.get("languages") or {}).items())])


def _count(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else number(value) if isinstance(value, float) else str(value)


def _flat(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested counts as single lines, "flagged: kinds: spam"; a mean with its error as one."""
    for key, value in counts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            mean = score(value)
            yield from [(name, mean.text)] if mean else _flat(value, f"{name}: ")
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
            yield from _flat({str(one.get("name", i + 1)): _unnamed(one) for i, one in enumerate(value)}, f"{name}: ")
        else:
            yield name, value


def _unnamed(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key != "name"}


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _plain(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and isfinite(value) else 0.0
