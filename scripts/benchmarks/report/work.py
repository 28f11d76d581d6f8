"""The README's table and plot of every record that is kept: ratios first, goals beside them, missed ones as plainly;
and a page beside the records that holds all the rest. Each kind of machine has a table and a plot of its own.

A record is what a work wrote with ``json=scripts/benchmarks/records/NAME.json``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from benchmarks.command import say
from benchmarks.record import Comparison, Record, load
from benchmarks.report.plot import plot
from lit_llm.errors import UserError

PAGE = "# What the benchmarks found\n"
BEGIN, END = "<!-- benchmarks: scripts/benchmark.py report writes what is between -->", "<!-- end of benchmarks -->"


@dataclass(frozen=True)
class Settings:
    """Writes the table and plot of scripts/benchmarks/README.md from the records of all works."""

    records: Annotated[Path, "the folder of the records, and of their page, README.md"] = Path(
        "scripts/benchmarks/records"
    )
    readme: Annotated[Path, "a file that holds the two marks"] = Path("scripts/benchmarks/README.md")
    picture: Annotated[Path, "the plot, as SVG; other kinds of machine have theirs beside it"] = Path(
        "scripts/benchmarks/records/ratios.svg"
    )


def run(settings: Settings) -> None:
    files = sorted(settings.records.glob("*.json"), key=_natural)
    records = [load(file) for file in files]
    kinds = _kinds(records)
    if not any(_headlines(record) for record in records):
        raise UserError(f"records={settings.records}: no record with a goal; write some with json={settings.records}/…")
    before, after = _around(settings.readme)
    page = settings.records / "README.md"
    if page.is_file() and not page.read_text(encoding="utf-8").startswith(PAGE):
        raise UserError(f"records={settings.records}: its README.md is not one that this command wrote; move it away")
    pictures = _draw(kinds, settings.picture)
    text = "\n".join(summary(kinds, _links(settings.readme, pictures), _from(settings.readme, page)))
    settings.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    page.write_text("\n".join(details(kinds, _links(page, pictures))), encoding="utf-8")
    drawn = ", ".join(map(str, pictures.values()))
    say(f"{settings.readme}, {page}: {len(records)} record{'s' if len(records) > 1 else ''}; {drawn}")


Kinds = dict[str, list[Record]]


def _kinds(records: Sequence[Record]) -> Kinds:
    """The records of each kind of machine, those of the kind with most of them first."""
    found: Kinds = {}
    for record in records:
        found.setdefault(record.kind, []).append(record)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _draw(kinds: Kinds, first: Path) -> dict[str, Path]:
    """A plot for each kind that has anything to draw, the first one into ``first``."""
    first.parent.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    for kind, records in kinds.items():
        groups: dict[str, list[Comparison]] = {}
        for record in records:
            groups.setdefault(record.heading, []).extend(_headlines(record))
        if any(groups.values()):
            name = re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
            drawn[kind] = first.with_stem(f"{first.stem}_{name}") if drawn else first
            drawn[kind].write_text(plot([item for item in groups.items() if item[1]]), encoding="utf-8")
    return drawn


def _links(page: Path, pictures: dict[str, Path]) -> dict[str, str]:
    return {kind: _from(page, file) for kind, file in pictures.items()}


def _natural(file: Path) -> list[int | str]:
    """Batch 8 before batch 32."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.stem)]


def _from(page: Path, file: Path) -> str:
    return Path(os.path.relpath(file.resolve(), page.resolve().parent)).as_posix()


def _headlines(record: Record) -> list[Comparison]:
    return [each for each in record.comparisons() if not each.detail]


def _around(readme: Path) -> tuple[str, str]:
    """What stands before the first mark and after the second."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"readme={readme}: must hold these two lines, once each and in this order: {BEGIN} {END}")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def summary(kinds: Kinds, pictures: dict[str, str], link: str) -> Iterator[str]:
    """For each kind of machine the plot and a row for every goal, with dates and machines."""
    for kind, records in kinds.items():
        yield from _overview(kind, records, pictures, len(kinds) > 1, details=False)
        dates = sorted({record.date for record in records})
        machines = sorted({_plain(record.machine) for record in records})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        where = "; ".join(filter(None, machines))
        yield f"\nMeasured {span}{' on ' if where else ''}{where}.\n"
    yield f"[Threads, load, versions, every configuration's figures and what each part contributes]({link})."


def _overview(
    kind: str, records: Sequence[Record], pictures: dict[str, str], named: bool, details: bool
) -> Iterator[str]:
    """Under the kind's name, where there are several, its plot and its ratios."""
    if named:
        yield f"\n### {_plain(kind) or 'Other machines'}\n"
    if kind in pictures:
        yield f"![How many times faster than the fastest rival, with the goals]({pictures[kind]})\n"
    yield from _ratios(records, details)


def _ratios(records: Sequence[Record], details: bool) -> Iterator[str]:
    yield "| work | against the fastest rival | ratio (lowest to highest) | goal | |"
    yield "|---|---|---|---|---|"
    for record in records:
        for each in record.comparisons() if details else _headlines(record):
            yield _row(record.heading, each)
        if not any(record.comparisons()):
            for result in record.results:
                rate = f"{result.median:.3g} {record.unit} a second"
                yield f"| {_plain(record.heading)} | {_plain(result.name)}, no rival | {rate} | | |"


def details(kinds: Kinds, pictures: dict[str, str]) -> Iterator[str]:
    """All that the records hold: conditions, every configuration's figures, what bounds them."""
    yield PAGE + "\n`scripts/benchmark.py report` writes this page from the records beside it.\n"
    for kind, records in kinds.items():
        yield from _overview(kind, records, pictures, len(kinds) > 1, details=True)
    for kind, record in ((kind, record) for kind, records in kinds.items() for record in records):
        suffix = f", {_plain(kind)}" if len(kinds) > 1 and kind else ""
        yield f"\n## {_plain(record.heading)}{suffix}\n\n{record.date}. {'; '.join(map(_plain, record.conditions))}.\n"
        yield from _table(_figures(record))
        if bounds := [_plain(note) for note in record.notes if note]:
            yield f"\n{'; '.join(bounds)}."
        if record.table:
            yield ""
            yield from _table(record.table)
    yield ""


def _figures(record: Record) -> Iterator[Sequence[str]]:
    yield "", f"{record.unit}/s", "lowest", "highest", "peak GB", "first call, s"
    for each in sorted(record.results, key=lambda each: -each.median):
        rates = (_rate(value) for value in (each.median, min(each.rounds), max(each.rounds)))
        yield each.name, *rates, f"{each.peak_gb:.2f}", f"{each.first_seconds:.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first row names the columns."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(_plain(cell) for cell in row)} |"
        if number == 0:
            yield f"|{'---|' * len(row)}"


def _row(heading: str, each: Comparison) -> str:
    spread = f" ({each.low:.2f} to {each.high:.2f})" if each.low != each.high else ""
    goal = "" if each.wanted is None else f"{each.wanted:g}" + (" at most" if each.of == "memory" else "")
    met = {True: "met", False: "**missed**", None: ""}[each.met]
    met = "; ".join(part for part in (met, f"**{each.few}**" if each.few else "") if part)
    what, who = f"{_plain(heading)}: {_plain(each.text)}", f"{_plain(each.ours)} against {_plain(each.rival)}"
    return f"| {what} | {who} | **{each.ratio:.2f}**{spread} | {goal} | {met} |"


def _plain(text: str) -> str:
    """Text of a record as text of the table: no bar ends a cell, no mark begins."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").rstrip(".")
