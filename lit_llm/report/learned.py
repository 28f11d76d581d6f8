"""What each stage learned and what it lost, in sentences out of metrics.json and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_llm.report.answers import Answered
from lit_llm.report.ledger_table import VERDICTS
from lit_llm.report.reading import PipelineRun, StageRun
from lit_llm.report.tables import HeldoutRow, Score, Verdict, beyond, difference, heldout_rows, score
from lit_llm.report.terms import UNBOUNDED, first, label, ranked

SHOWN_LOSSES = 2  # a stage
SHOWN_PAIRS = 2
GOLD = "score/gold"

LOST_NOTHING = "Nothing beyond the noise."
NOT_COMPARED = "Nothing before it to compare."
BESIDE: dict[Verdict, str] = {"better": "is better", "same": "is no better", "worse": "is worse", "neutral": "differs"}
NO_LEDGER = "Not known: there is no ledger."


@dataclass(frozen=True)
class Sentence:
    """``words`` go on after "<measure> on <set>"; apart, so that the page can explain the measure."""

    measure: str
    set: str
    words: str
    verdict: Verdict
    beside: Literal["before", "floor", "nothing"] = "before"  # what the verdict compares with

    @property
    def text(self) -> str:
        return f"{label(self.measure)} on {self.set.replace('_', ' ')} {self.words}"


@dataclass(frozen=True)
class Learned:
    """A stage's part of the verdict. ``note`` says why nothing is lost; ``more``: losses that are not shown."""

    stage: str
    learned: tuple[Sentence, ...]
    lost: tuple[Sentence, ...]
    more: int = 0
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """A prompt and what two models said to it; None where there is but one."""

    prompt: tuple[tuple[str, str], ...]
    before: str | None
    after: str


@dataclass(frozen=True)
class Pairs:
    before: str | None  # the stages' names
    after: str
    pairs: tuple[Pair, ...]
    of: str  # which questions these are


def learned(run: PipelineRun) -> list[Learned]:
    """Each stage that has scores of its own, in the chain's order."""
    known: set[str] = set()
    found = []
    for stage in run.stages:
        rows = by_ledger(list(heldout_rows([stage])), run.ledger)
        if rows:
            found.append(_of_stage(stage, rows, run.ledger, known))
        known |= {row.set for row in rows}
    return found


def headline(stages: Sequence[Learned]) -> list[str]:
    """How many stages got better at what they were for, how others do beside their floors, and who lost something."""
    mains = [(one.stage.replace("_", " "), one.learned[0]) for one in stages if one.learned]
    verdicts = [said.verdict for _, said in mains if said.beside == "before" and said.verdict != "neutral"]
    lines = []
    if verdicts:
        better, of = verdicts.count("better"), len(verdicts)
        lines.append(f"Beyond the noise, {better} of {of} stages got better than before at what they were trained for.")
    floors = [f"{name} {BESIDE[said.verdict]}" for name, said in mains if said.beside == "floor"]
    if floors:
        lines.append(f"Next to the best rule that needs no model: {', '.join(floors)}.")
    losing = [one.stage.replace("_", " ") for one in stages if one.lost]
    if losing:
        lines.append(f"Something else got worse in {len(losing)}: {', '.join(losing)}.")
    elif any(one.note == LOST_NOTHING for one in stages):
        lines.append("No stage lost anything beyond the noise.")
    return lines


def _of_stage(stage: StageRun, rows: Sequence[HeldoutRow], ledger: Mapping[str, Any], known: set[str]) -> Learned:
    sets = own_sets(stage, rows, known)
    said = [_learned(row) for row in _trained_for(stage, rows, sets)]
    told = {(sentence.set, sentence.measure) for sentence in said}
    entries = [entry for entry in ledger.get("entries") or () if entry.get("stage") == stage.name]
    lost = [e for e in entries if e.get("verdict") == "lost" and (e["set"], e["metric"]) not in told]
    shown = sorted(_worst_of_sets(lost), key=_size, reverse=True)[:SHOWN_LOSSES]
    compared = any(entry.get("verdict") for entry in entries)
    note = NO_LEDGER if not ledger else LOST_NOTHING if compared else NOT_COMPARED
    return Learned(
        stage.name,
        tuple(said),
        tuple(found for entry in shown if (found := _lost(entry)) is not None),
        more=len(lost) - len(shown),
        note="" if shown else note,
    )


def own_sets(stage: StageRun, rows: Sequence[HeldoutRow], known: set[str]) -> list[str]:
    """The held-out sets that the stage is for: its data's, else those that no stage before it has, else all."""
    sets = list(dict.fromkeys(row.set for row in rows))
    data = stage.config.get("data")
    name = str(data.get("name")) if isinstance(data, Mapping) else ""
    return [name] if name in sets else [one for one in sets if one not in known] or sets


def aim(stage: StageRun, measures: Sequence[str]) -> str:
    """The measure that the stage was trained for: by its own objective, else by rank."""
    objective = str(stage.metrics.get("objective_of") or "").lstrip("-").partition("/")[2]
    return objective if objective in measures else first(measures, count=1)[0]


def _trained_for(stage: StageRun, rows: Sequence[HeldoutRow], sets: Sequence[str]) -> Iterator[HeldoutRow]:
    for name in sets:
        mine = {row.metric: row for row in rows if row.set == name}
        main = aim(stage, list(mine))
        yield mine[main]
        beside = GOLD if main == "score/reward" else "likelihood_accuracy" if mine[main].before is None else ""
        if beside in mine and beside != main:
            yield mine[beside]


def by_ledger(rows: Sequence[HeldoutRow], ledger: Mapping[str, Any]) -> list[HeldoutRow]:
    """The rows with the verdict of the ledger's paired test where it has one: it knows the items one by one."""
    known = {_key(entry): VERDICTS.get(str(entry.get("verdict"))) for entry in ledger.get("entries") or ()}
    keys = [(row.stage, row.set, row.metric) for row in rows]
    return [replace(row, verdict=known.get(key) or row.verdict) for row, key in zip(rows, keys, strict=True)]


def _learned(row: HeldoutRow) -> Sentence:
    if row.before is None:
        return _beside_floor(row)
    return Sentence(row.metric, row.set, change_in_words(row.before, row.after, row.verdict), row.verdict)


def _beside_floor(row: HeldoutRow) -> Sentence:
    """Of a measure that the model before cannot have: next to the rule that is hardest to beat."""
    floor = row.floor
    if floor is None:
        words = f"is {row.after.text}, with nothing before to compare"
        return Sentence(row.metric, row.set, words, "neutral", "nothing")
    lead = floor.above or difference(floor.value, row.after)
    verdict = beyond(row.metric, lead)
    judged = {"better": "better than", "worse": "worse than", "same": "no better than"}[verdict]
    words = f"is {row.after.text}, {judged} the rule '{floor.name}' ({floor.value.text})"
    return Sentence(row.metric, row.set, words, verdict, "floor")


def change_in_words(before: Score, after: Score, verdict: Verdict) -> str:
    """ "fell from 2.380 ± 0.050 to 1.548 ± 0.042: better"."""
    if verdict == "same":
        return f"stayed the same within the noise: {before.text} before, {after.text} after"
    judged = f": {verdict}" if verdict in ("better", "worse") else ""
    return f"{_moved(before, after)} from {before.text} to {after.text}{judged}"


def _moved(before: Score, after: Score) -> str:
    return "rose" if after.mean > before.mean else "fell" if after.mean < before.mean else "went"


def _lost(entry: Mapping[str, Any]) -> Sentence | None:
    before, after = score(entry.get("before")), score(entry.get("after"))
    if before is None or after is None:
        return None
    words = f"{_moved(before, after)} from {before.rounded} to {after.rounded} ({_share(entry, before, after)})"
    return Sentence(str(entry["metric"]), str(entry["set"]), words, "worse")


def _share(entry: Mapping[str, Any], before: Score, after: Score) -> str:
    change = after.mean - before.mean
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    if _unbounded(entry):
        return f"{sign}{100 * abs(change) / abs(before.mean):.0f}%" if before.mean else f"{sign}{abs(change):.3g}"
    return f"{sign}{100 * abs(change):.1f} points"


def _worst_of_sets(lost: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Of each set the measure that lost most, of those in ``RANK`` where one of them is lost."""
    for name in dict.fromkeys(entry["set"] for entry in lost):
        mine = [entry for entry in lost if entry["set"] == name]
        yield max([entry for entry in mine if ranked(entry["metric"])] or mine, key=_size)


def _size(entry: Mapping[str, Any]) -> float:
    """How large a loss is: in points of a share, or as a part of the value."""
    before, after = score(entry.get("before")), score(entry.get("after"))
    if before is None or after is None:
        return 0.0
    whole = max(abs(before.mean), abs(after.mean)) if _unbounded(entry) else 1.0
    return abs(after.mean - before.mean) / (whole or 1.0)


def _unbounded(entry: Mapping[str, Any]) -> bool:
    return str(entry["metric"]).rsplit("/", 1)[-1] in UNBOUNDED


def _key(entry: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return entry.get("stage"), entry.get("set"), entry.get("metric")


def pairs(answers: Sequence[Answered], before: str | None, after: str | None) -> Pairs | None:
    """The first held-out questions with the two models' answers, where it is known which are held out; else the first
    of all. None where ``after`` answered none."""
    heldout = [item for item in answers if item.heldout]
    found = []
    for item in (heldout or answers)[:SHOWN_PAIRS]:
        said = {stage: text for stage, text, _ in item.answers}
        if after in said:
            found.append(Pair(item.prompt, said.get(before or ""), said[after]))
    if not found or after is None:
        return None
    both = any(pair.before is not None for pair in found)
    of = "held-out question" if heldout else "question"
    rule = f"the first {of}" if len(found) == 1 else f"the first {len(found)} {of}s"
    return Pairs(before if both else None, after, tuple(found), rule)
