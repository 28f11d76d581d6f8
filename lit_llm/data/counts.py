"""What became of every row that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_llm.data.overview import Overview
from lit_llm.data.quality import screening as quality

HARMLESS = ("duplicate", "in_heldout", "empty_text", "all_tied", "left_out", "unlabelled", *quality.REASONS)
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
    languages: Counter[str] = field(default_factory=Counter)  # rows by language, where ``data.languages`` is given
    encodings: Counter[str] = field(default_factory=Counter)  # texts by the encoding that was found out
    overview: Overview = field(default_factory=Overview)  # the same by kinds of files

    def drop(self, reason: str, told: Mapping[int, str]) -> None:
        """Rows that were used so far are skipped: their numbers, and what a user is told of each."""
        if told:
            self.used -= len(told)
            self.skipped[reason] += len(told)
            self.first.setdefault(reason, next(iter(told.values())))

    def as_dict(self) -> dict[str, Any]:
        found = {"read": self.read, "used": self.used, "skipped": dict(sorted(self.skipped.items()))}
        more = {"ignored_files": self.ignored_files, "altered": dict(self.altered), "repeated_ids": self.repeated_ids}
        more["languages"] = dict(sorted(self.languages.items()))
        more["encodings"] = dict(self.encodings)
        return found | {name: value for name, value in more.items() if value}

    @property
    def errors(self) -> int:
        return sum(n for reason, n in self.skipped.items() if reason not in HARMLESS)

    def __str__(self) -> str:
        parts = ", ".join(f"{reason} {n}" for reason, n in self.skipped.most_common())
        return f"{self.read} rows read, {self.used} used" + (f", skipped: {parts}" if parts else "")
