"""What became of every row that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_llm.data.file_rows import WITHOUT_ROWS
from lit_llm.data.filters import Record
from lit_llm.data.overview import Overview
from lit_llm.data.quality import screening as quality
from lit_llm.runtime.counted import counted

HARMLESS = (
    WITHOUT_ROWS, "duplicate", "in_heldout", "empty_text", "all_tied", "left_out", "unlabelled", *quality.REASONS,
)  # fmt: skip
"""Reasons that are no error: they never stop a run and do not count against ``max_error_rate``."""


@dataclass
class Counts:
    """read = used + sum(skipped.values()), always. Rows of ignored files are not read."""

    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    ignored_files: int = 0
    altered: Counter[str] = field(default_factory=Counter)  # places in the rows read, by ``filters.ALTERED``
    first: dict[str, str] = field(default_factory=dict)  # by reason, the message of the first row that is skipped
    repeated_ids: int = 0  # rows used whose id an earlier row has with other content
    encodings: Counter[str] = field(default_factory=Counter)  # texts by the encoding that was found out
    overview: Overview = field(default_factory=Overview)  # the same by kinds of files

    def drop(self, reason: str, records: Sequence[Record], told: Mapping[int, str]) -> list[Record]:
        """Those of ``records``, all used so far, that stay; ``told``: the numbers of the others, and what a user is
        told of each."""
        if told:
            self.used -= len(told)
            self.skipped[reason] += len(told)
            self.first.setdefault(reason, next(iter(told.values())))
        for number in told:
            self.overview.leave_out(records[number], reason)
        return [record for number, record in enumerate(records) if number not in told]

    def plain(self) -> dict[str, Any]:
        """All of it but ``ignored_files`` and ``encodings``, as JSON takes it."""
        return {"read": self.read, "used": self.used, "skipped": self.skipped, "altered": self.altered,
                "first": self.first, "overview": self.overview.plain(), "bad": self.overview.bad.plain()}  # fmt: skip

    def join(self, plain: Mapping[str, Any]) -> None:
        """Adds what became of the rows of another part of the data, which stands behind this one (``plain``)."""
        self.read, self.used = self.read + plain["read"], self.used + plain["used"]
        self.skipped += Counter(plain["skipped"])
        self.altered += Counter(plain["altered"])
        self.first = plain["first"] | self.first
        self.overview.join(plain["overview"])
        self.overview.bad.join_plain(plain.get("bad", {}))

    def as_dict(self) -> dict[str, Any]:
        found = {"read": self.read, "used": self.used, "skipped": dict(sorted(self.skipped.items()))}
        more = {"ignored_files": self.ignored_files, "altered": dict(self.altered), "repeated_ids": self.repeated_ids}
        more["languages"] = dict(sorted(self.overview.whole.languages.items()))
        more["encodings"] = dict(self.encodings)
        return found | {name: value for name, value in more.items() if value}

    @property
    def errors(self) -> int:
        return sum(n for reason, n in self.skipped.items() if reason not in HARMLESS)

    def __str__(self) -> str:
        parts = ", ".join(f"{reason} {n:,}" for reason, n in self.skipped.most_common())
        return f"{counted(self.read, 'row')} read, {self.used:,} used" + (f", skipped: {parts}" if parts else "")


def merged_counts(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of the counts of several sources."""
    numbers = {
        name: sum(part.get(name, 0) for part in parts) for name in ("read", "used", "ignored_files", "repeated_ids")
    }
    named = {
        name: dict(sum((Counter(part.get(name, {})) for part in parts), Counter[str]()))
        for name in ("skipped", "altered", "languages", "encodings")
    }
    always = {name: (numbers | named)[name] for name in ("read", "used", "skipped")}
    return always | {name: value for name, value in (numbers | named).items() if value}


def moved(counts: Mapping[str, Any], reasons: Mapping[str, int]) -> dict[str, Any]:
    """The counts after so many used records turned out to be unusable, by reason."""
    skipped = dict(counts["skipped"])
    for reason, number in reasons.items():
        if number:
            skipped[reason] = skipped.get(reason, 0) + number
    return {**counts, "used": counts["used"] - sum(reasons.values()), "skipped": dict(sorted(skipped.items()))}
