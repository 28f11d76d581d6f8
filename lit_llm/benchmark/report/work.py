"""The README's table and plot of every record that is kept: ratios first, goals beside them, missed ones as plainly;
and a page beside the records that holds all the rest.

A record is what a work wrote with ``json=scripts/benchmarks/NAME.json``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lit_llm.benchmark.command import say
from lit_llm.benchmark.record import Comparison, Record, load
from lit_llm.benchmark.report.plot import plot
from lit_llm.errors import UserError

PAGE = "# What the benchmarks found\n"
BEGIN, END = "<!-- benchmarks: scripts/benchmark.py report writes what is between -->", "<!-- end of benchmarks -->"


@dataclass(frozen=True)
class Settings:
    """Writes the README's table and plot from the records of all works."""

    records: Annotated[Path, "the folder of the records, and of their page, README.md"] = Path("scripts/benchmarks")
    readme: Annotated[Path, "a file that holds the two marks"] = Path("README.md")
    picture: Annotated[Path, "the plot, as SVG"] = Path("scripts/benchmarks/ratios.svg")


def run(settings: Settings) -> None:
    files = sorted(settings.records.glob("*.json"), key=_natural)
    records = [load(file) for file in files]
    groups: dict[str, list[Comparison]] = {}
    for record in records:
        groups.setdefault(record.heading, []).extend(_headlines(record))
    if not any(groups.values()):
        raise UserError(f"records={settings.records}: no record with a goal; write some with json={settings.records}/…")
    before, after = _around(settings.readme)
    page = settings.records / "README.md"
    if page.is_file() and not page.read_text(encoding="utf-8").startswith(PAGE):
        raise UserError(f"records={settings.records}: its README.md is not one that this command wrote; move it away")
    settings.picture.parent.mkdir(parents=True, exist_ok=True)
    drawn = [(heading, found) for heading, found in groups.items() if found]
    settings.picture.write_text(plot(drawn), encoding="utf-8")
    picture, link = (_from(settings.readme, file) for file in (settings.picture, page))
    text = "\n".join(summary(records, picture, link))
    settings.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    page.write_text("\n".join(details(records, _from(page, settings.picture))), encoding="utf-8")
    say(f"{settings.readme}, {page}: {len(records)} record{'s' if len(records) > 1 else ''}; {settings.picture}")


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


def summary(records: Sequence[Record], picture: str, link: str) -> Iterator[str]:
    """The plot and a row for every goal, with dates and machines."""
    yield f"![How many times faster than the fastest rival, with the goals]({picture})\n"
    yield from _ratios(records, details=False)
    dates, machines = sorted({record.date for record in records}), sorted({_machine(record) for record in records})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    where = "; ".join(filter(None, machines))
    yield f"\nMeasured {span}{' on ' if where else ''}{where}. [Threads, load, versions, every configuration's"
    yield f"figures and what each part contributes]({link})."


def _machine(record: Record) -> str:
    """Processor and cores: what its conditions, lines of text, say in front of threads and load."""
    found = (line.partition(", load before") for line in record.conditions)
    return next((_plain(before.rpartition(", ")[0]) for before, load, _ in found if load), "")


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


def details(records: Sequence[Record], picture: str) -> Iterator[str]:
    """All that the records hold: conditions, every configuration's figures, what bounds them."""
    yield PAGE + "\n`scripts/benchmark.py report` writes this page from the records beside it.\n"
    yield f"![How many times faster than the fastest rival, with the goals]({picture})\n"
    yield from _ratios(records, details=True)
    for record in records:
        yield f"\n## {_plain(record.heading)}\n\n{record.date}. {'; '.join(map(_plain, record.conditions))}.\n"
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
