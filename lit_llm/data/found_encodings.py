"""Which texts are no UTF-8, and what they were read as: one line, and their counts. Which are pages of the web."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lit_llm.data.documents.contents import is_page
from lit_llm.data.file_rows import TEXTS, Row, extension
from lit_llm.data.row_errors import RowError
from lit_llm.runtime.counted import verb

log = logging.getLogger(__name__)


@cache
def warn_once(to: logging.Logger, told: str) -> None:
    """A warning that a process gives once: data is read for the tokenizer, and then for the run."""
    to.warning("%s", told)


class FoundEncodings:
    """The texts whose encoding was found out, and those that are pages of the web by their content."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}
        self.pages: list[str] = []

    def seen(self, rows: Iterable[Row | RowError]) -> Iterator[Row | RowError]:
        for row in rows:
            if isinstance(row, Row) and row.encoding:
                self.files.setdefault(row.encoding, []).append(Path(row.file).name)
            text = row.value if isinstance(row, Row) and row.line == 1 and extension(row.file) in TEXTS else None
            if isinstance(text, str) and is_page(text):
                self.pages.append(Path(row.file).name)
            yield row

    def tell(self, path: Any) -> Counter[str]:
        """One line with the files by encoding, and one with the pages; the counts of the first."""
        if self.pages:
            more = f" and {len(self.pages) - 8} more" if len(self.pages) > 8 else ""
            what = verb(len(self.pages), "HTML by its content, whose", "HTML by their content, whose")
            warn_once(
                log,
                f"data.path={path}: {', '.join(self.pages[:8])}{more}: {what} markup is trained as it stands; "
                "rename to .html what is to be read as pages",
            )
        if self.files:
            found = "; ".join(
                f"{name}: {', '.join(files[:8])}{f' and {len(files) - 8} more' if len(files) > 8 else ''}"
                for name, files in sorted(self.files.items())
            )
            warn_once(log, f"data.path={path}: texts that are no UTF-8, read as {found} (data.encoding=NAME says it)")
        return Counter({name: len(files) for name, files in self.files.items()})
