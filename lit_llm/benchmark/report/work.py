"""The README's table and plot of every record that is kept: ratios first, goals beside them, missed ones as plainly.

A record is what a work wrote with ``json=scripts/benchmarks/NAME.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lit_llm.benchmark.command import say
from lit_llm.benchmark.record import Comparison, Record, load
from lit_llm.benchmark.report.plot import plot
from lit_llm.errors import UserError

BEGIN, END = "<!-- benchmarks: scripts/benchmark.py report writes what is between -->", "<!-- end of benchmarks -->"


@dataclass(frozen=True)
class Settings:
    """Writes the README's table and plot from the records of all works."""

    records: Annotated[Path, "the folder of the records"] = Path("scripts/benchmarks")
    readme: Annotated[Path, "a file that holds the two marks"] = Path("README.md")
    picture: Annotated[Path, "the plot, as SVG"] = Path("scripts/benchmarks/ratios.svg")


def run(settings: Settings) -> None:
    files = sorted(settings.records.glob("*.json"))
    records = [load(file) for file in files]
    groups: dict[str, list[Comparison]] = {}
    for record in records:
        groups.setdefault(record.heading, []).extend(record.comparisons())
    if not any(groups.values()):
        raise UserError(f"records={settings.records}: no record with a goal; write some with json={settings.records}/…")
    before, after = _around(settings.readme)
    shown = os.path.relpath(settings.picture.resolve(), settings.readme.resolve().parent)
    settings.picture.parent.mkdir(parents=True, exist_ok=True)
    drawn = [(heading, found) for heading, found in groups.items() if found]
    settings.picture.write_text(plot(drawn), encoding="utf-8")
    text = "\n".join(markdown(records, Path(shown).as_posix()))
    settings.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    say(f"{settings.readme}: {len(records)} record{'s' if len(records) > 1 else ''}; {settings.picture}")


def _around(readme: Path) -> tuple[str, str]:
    """What stands before the first mark and after the second."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"readme={readme}: must hold these two lines, once each and in this order: {BEGIN} {END}")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def markdown(records: Sequence[Record], picture: str) -> Iterator[str]:
    """The plot, a row for every goal, then what each record depends on and what bounds what was missed."""
    yield f"![How many times faster than the fastest rival, with the goals]({picture})\n"
    yield "| work | against the fastest rival | ratio (lowest to highest) | goal | |"
    yield "|---|---|---|---|---|"
    for record in records:
        for each in record.comparisons():
            yield _row(record.heading, each)
    yield ""
    for record in records:
        yield f"- **{_plain(record.heading)}**, {record.date}. {'; '.join(_plain(line) for line in record.conditions)}."
        if bounds := [_plain(note) for note in record.notes if note]:
            yield f"  {'; '.join(bounds)}."
        yield from _table(record.table)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A record's own table, inside its entry of the list."""
    for number, row in enumerate(rows):
        if number == 0:
            yield ""
        yield f"  | {' | '.join(_plain(cell) for cell in row)} |"
        if number == 0:
            yield f"  |{'---|' * len(row)}"
    if rows:
        yield ""


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
