"""Files that nothing of may be trained: what ``data.decontaminate`` names, such as an evaluation set or an earlier
run's ``heldout`` folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_llm.data.cells import with_cells
from lit_llm.data.column_map import as_mapping
from lit_llm.data.file_rows import Row, read_rows
from lit_llm.data.formats import FORMATS
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_keys import ABOUT
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED
from lit_llm.errors import UserError

KEY = "data.decontaminate"
ASKED = (
    "text", "context", "passage", "ctx", "article", "instruction", "input", "prompt", "question", "problem", "query",
    "goal", "sentence", "source", "messages", "conversations",
)  # fmt: skip
"""Keys of what is asked: where a row has one, its answers are not looked for. Another row is taken as a whole."""
TURNS = ("messages", "conversations", "prompt")
"""Keys whose cell in a table may hold turns. What other cells mean (a label, a score) is not asked here."""
_USERS = ("user", "human", "prompter")
_ABOUT = ABOUT - {"source", "function"} | {"kind", "tags", "function"}


def named_items(
    paths: Sequence[str],
    cache_dir: str | Path,
    encoding: str = "utf-8",
    columns: Mapping[str, str] | str | None = None,
    key: str = KEY,
) -> list[tuple[str, str]]:
    """(text, where it is from) of every row of the files. Where they have splits, what is for training is left out.

    Args:
        key: of the configuration, that names the files.
        cache_dir: where the text of documents is kept.
        columns: {a row's key: the format's}, of rows that have the key; others keep theirs.

    Raises UserError for a place that is none, a file that cannot be read and a row without a text.
    """
    renamed = as_mapping(columns)
    found: list[tuple[str, str]] = []
    for path in paths:
        try:
            splits = resolve(path, cache_dir)
        except UserError as error:
            raise UserError(f"{key}: {str(error).replace('data.path', key).removeprefix(f'{key}: ')}") from None
        names = [name for name in splits if name not in ("train", UNDIVIDED)] or list(splits)
        for read in read_rows([file for name in names for file in splits[name]], encoding, cache_dir):
            row = _meant(read, renamed)
            if not isinstance(row, Row):
                raise UserError(f"{row} ({key})")
            text = row.value if isinstance(row.value, str) else asked(row.value)
            if not text.strip() and key != KEY:
                continue  # a run wrote it: an item that asks nothing cannot be looked for
            if not text.strip():
                raise UserError(f"{row.where}: no text ({key}); rows need one of {', '.join(ASKED)}")
            found.append((text, row.where))
    return found


def _meant(row: Row | RowError, renamed: Mapping[str, str]) -> Row | RowError:
    """A row under the format's names; of a table's, the cells that hold turns are read as JSON."""
    if not isinstance(row, Row) or isinstance(row.value, str):
        return row
    taken = next((key for key in renamed if key in row.value and renamed[key] in row.value.keys() - renamed), None)
    if taken is not None:
        return RowError(
            "column_taken", f"{row.where}: data.columns makes '{taken}' to '{renamed[taken]}', which it has"
        )
    value = {renamed.get(key, key): one for key, one in row.value.items()}
    cells = {key: value[key] for key in TURNS if key in value}
    form = max(FORMATS, key=lambda form: form.fits(cells))
    read = next(iter(with_cells([replace(row, value=cells)], form.kind, None)))
    return replace(row, value=value | read.value) if isinstance(read, Row) and isinstance(read.value, dict) else read


def asked(value: Mapping[str, Any]) -> str:
    """What a row asks; all of its texts where none of its keys says what that is."""
    known = {key: one for key, one in value.items() if key.lower() in ASKED and one}
    parts = [part for one in (known or _said(value)).values() for part in _texts(one)]
    return "\n".join(parts)


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key.lower() not in _ABOUT}


def _texts(value: Any) -> Iterator[str]:
    """All texts of a value; of turns those of the user, if there is one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in _said(value).values():
            yield from _texts(one)
    elif isinstance(value, Sequence):
        turns = [one for one in value if isinstance(one, Mapping) and ("role" in one or "from" in one)]
        users = [one for one in turns if str(one.get("role", one.get("from"))).lower() in _USERS]
        for one in users or turns or value:
            yield from _texts(one.get("content", one.get("value", ""))) if one in turns else _texts(one)
