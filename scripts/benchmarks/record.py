"""What a race found, as it is printed, written as JSON and read again for the README: ratios first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.race import Result, fastest
from lit_llm.errors import UserError


@dataclass(frozen=True)
class Goal:
    """A ratio that is wanted between the fastest of ours and the best of its rivals.

    Args:
        text: what is compared, in a few words: a line of the README's table.
        ours: a contestant's name, or several: the fastest of them stands, for memory too.
        rivals: names of contestants. Who did not take part is left out, of both.
        wanted: speed: so many times as fast, at least. memory: so many times the peak, at most. None: only reported.
        detail: left out of the project's README and plot; the records' own page has it.
    """

    text: str
    ours: str | Sequence[str]
    rivals: Sequence[str]
    wanted: float | None = None
    of: Literal["speed", "memory"] = "speed"
    detail: bool = False


@dataclass(frozen=True)
class Comparison:
    """A goal as it turned out: the median ratio to the best rival, the lowest and the highest of the rounds."""

    text: str
    ours: str
    rival: str
    ratio: float
    low: float
    high: float
    wanted: float | None
    of: str
    few: str = ""  # rounds, in words, where they are too few to rely on
    detail: bool = False

    @property
    def met(self) -> bool | None:
        if self.wanted is None:
            return None
        return self.ratio >= self.wanted if self.of == "speed" else self.ratio <= self.wanted


@dataclass(frozen=True)
class Record:
    """One work's results with everything that they depend on.

    ``unit``: of a second's work ("tokens"). ``conditions``: see ``conditions.py``. ``notes``: what bounds a figure.
    ``table``: more that was found, rows of cells, the first of them the columns' names. ``title``: the work and what it
    was done with, in a few words ("training step, 10M, batch 8"): the goals' texts stand below it. ``kind``: of the
    machine, as to speed ("AVX2"): figures of different kinds say nothing of each other.
    """

    work: str
    unit: str
    conditions: Sequence[str]
    results: Sequence[Result]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    table: Sequence[Sequence[str]] = ()
    title: str = ""
    kind: str = ""

    @property
    def machine(self) -> str:
        """Processor and cores: what the conditions, lines of text, say in front of threads and load."""
        found = (line.partition(", load before") for line in self.conditions)
        return next((" ".join(before.rpartition(", ")[0].split()) for before, load, _ in found if load), "")

    @property
    def heading(self) -> str:
        return self.title or self.work.replace("_", " ")

    def comparisons(self) -> Iterator[Comparison]:
        """The goals that somebody stood against; what an earlier one said of the same pair is not said again."""
        said: set[tuple[str, str, str, float | None]] = set()
        for each in self._compared():
            pair = (each.ours, each.rival, each.of)
            if (*pair, each.wanted) in said or (each.wanted is None and any(one[:3] == pair for one in said)):
                continue
            said.add((*pair, each.wanted))
            yield each

    def _compared(self) -> Iterator[Comparison]:
        by_name = {result.name: result for result in self.results}
        for goal in self.goals:
            names = [goal.ours] if isinstance(goal.ours, str) else goal.ours
            candidates = [by_name[name] for name in names if name in by_name]
            rivals = [by_name[name] for name in goal.rivals if name in by_name]
            if not candidates or not rivals:
                continue
            ours = fastest(candidates)
            if goal.of == "memory":
                best = min(rivals, key=lambda result: result.peak_gb)
                ratio = low = high = ours.peak_gb / best.peak_gb
            else:
                best = fastest(rivals)
                ratio, low, high = ours.against(best)
            few = self._few(len(ours.rounds))
            detail = goal.detail and goal.wanted is None
            yield Comparison(goal.text, ours.name, best.name, ratio, low, high, goal.wanted, goal.of, few, detail)

    def _few(self, rounds: int) -> str:
        least, noun = (3, "seed") if self.work == "to_loss" else (5, "round")
        return "" if rounds >= least else f"{rounds} {noun}{'s' if rounds > 1 else ''} only, {least} are wanted"

    def lines(self) -> Iterator[str]:
        """What is printed: conditions, ratios, then every figure."""
        yield from self.conditions
        yield ""
        for each in self.comparisons():
            yield f"{each.text}: {_said(each)}"
        width = max((len(result.name) for result in self.results), default=0) + 2
        yield f"\n{'':<{width}}{self.unit + '/s':>12}{'lowest':>12}{'highest':>12}{'peak GB':>9}{'first s':>9}"
        for result in sorted(self.results, key=lambda each: -each.median):
            figures = f"{result.median:>12,.4g}{min(result.rounds):>12,.4g}{max(result.rounds):>12,.4g}"
            numbers = "  ".join(f"{key} {value:.6g}" for key, value in result.numbers.items())
            line = f"{result.name:<{width}}{figures}{result.peak_gb:>9.2f}{result.first_seconds:>9.2f}  {numbers}"
            yield line.rstrip()
        yield from self.notes
        if self.table:
            widths = [max(map(len, column)) for column in zip(*self.table, strict=True)]
            yield ""
            for name, *cells in self.table:
                yield name.ljust(widths[0]) + "".join(
                    cell.rjust(wide + 2) for cell, wide in zip(cells, widths[1:], strict=True)
                )

    def save(self, file: Path) -> None:
        value = asdict(self) | {"comparisons": [asdict(each) | {"met": each.met} for each in self.comparisons()]}
        with _one_line(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value, indent=1, default=_named) + "\n", encoding="utf-8")


def _named(value: object) -> str:
    """A file by its name alone: records are published, and where it lay is nobody's business."""
    return value.name if isinstance(value, Path) else str(value)


def check_writable(file: Path) -> None:
    """Before a long race: raises UserError where nothing can be written; leaves nothing behind but the folder."""
    if file.is_dir():
        raise UserError(f"json={file}: is a folder; name a file in it: json={file}/NAME.json")
    there = file.exists()
    with _one_line(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
        if not there:
            file.unlink()


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"json={file}: cannot be written ({error.strerror}); name another file") from None


def load(file: Path) -> Record:
    """A record as ``save`` wrote it. Raises UserError where the file is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        value.pop("comparisons", None)
        results = [Result(**{**each, "rounds": tuple(each["rounds"])}) for each in value.pop("results")]
        goals = [Goal(**each) for each in value.pop("goals")]
        record = Record(**value, results=results, goals=goals)
        # Records of before 2026-11-29 name it in their conditions alone.
        _, said, units = record.machine.rpartition(", ")[0].rpartition(" with ")
        return replace(record, kind=record.kind or units * bool(said))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: is no record of a benchmark ({type(error).__name__}); write one with json={file}"
        ) from None


def _said(each: Comparison) -> str:
    wanted = "" if each.wanted is None else f"; goal {each.wanted:g}, {'met' if each.met else 'missed'}"
    wanted += f"; {each.few}" if each.few else ""
    if each.of == "memory":
        return f"{each.ours} takes {each.ratio:.2f} times the memory of {each.rival}{wanted}"
    return f"{each.ours} is {each.ratio:.2f} times as fast as {each.rival} ({each.low:.2f} to {each.high:.2f}{wanted})"
