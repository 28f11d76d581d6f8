"""Ranking projects as data: the rankings that people submitted to the app, read from its database as rows.

A project is a file (``FILE.db``) or an SQLAlchemy URL. Its splits are files to the rest of the data: ``FILE.db#train``.
What a project *is* for training is its rankings alone: drafts, log-ins and the bytes of the file do not count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_llm.errors import UserError

if TYPE_CHECKING:
    from lit_llm.feedback.store.engine import Store

SUFFIXES = (".db", ".sqlite", ".sqlite3")
_URL = re.compile(r"(sqlite|postgres|postgresql|mysql|mariadb|oracle|mssql)(\+\w+)?://")
_SECRET = re.compile(r"(?i)\b(\w*(?:passw|pwd|secret|token|key)\w*)=[^&]*")
_SPLIT = re.compile(r"(.+)#(train|validation|test[-.\w]*)", re.DOTALL)


def is_project(place: str) -> bool:
    """Whether ``place`` (or a split of it) names a project: by its extension or as a URL; nothing is opened."""
    name = place_of(place)
    return bool(_URL.match(name)) or Path(name).suffix.lower() in SUFFIXES


def is_file_of_project(place: str) -> bool:
    """Whether a project is a file here, and not a server's database."""
    return is_project(place) and not _URL.match(place_of(place))


def place_of(file: str) -> str:
    """The file or URL of a project without the split; a URL of SQLite is its file."""
    found = _SPLIT.fullmatch(file)
    name = found[1] if found and not Path(file).exists() else file
    return name.removeprefix("sqlite:///") if name.startswith("sqlite:///") else name


def resolve_project(place: str) -> dict[str, list[str]]:
    """{split: [its name]} of the splits that have rankings, as stored with each prompt.

    Raises UserError: there is no such file, it is no project, or it has no ranking yet.
    """
    name = place_of(str(Path(place).expanduser()) if not _URL.match(place) else place)
    splits = sorted({split for split, _, _ in _rows(name)})
    if not splits:
        raise UserError(
            f"{shown(name)}: holds no ranking yet; rank with python scripts/rank.py project={shown(name)}, then go on"
        )
    return {split: [f"{name}#{split}"] for split in splits}


def read_project(file: str) -> Iterator[tuple[dict[str, Any], str, int]]:
    """(row, where it is from, its task) of every submitted ranking of a split, in a fixed order.

    A row is one of the ranking format (formats.py); under the time floor, gold items and repeats are left out. Where an
    adjudicator decided, the final ranking stands in place of those that it settles.
    """
    name, split = place_of(file), _split_of(file)
    for found, row, said in _rows(name):
        if split in (None, found):
            task = int(row.get("task", 0))
            yield row, f"{said}: task {task}, annotator {row['annotator']}", task


def rankings_hash(file: str) -> tuple[str, int]:
    """(SHA-256, bytes) of a project's rankings, or of those of one split, in canonical JSON, one a line."""
    digest, size = hashlib.sha256(), 0
    for row, _, _ in read_project(file):
        line = json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        digest.update(line)
        size += len(line)
    return digest.hexdigest(), size


def shown(place: str) -> str:
    """A project's name for people: a URL without its secrets. A password may hold ``/``, ``:``, ``?`` and ``@``."""
    if not _URL.match(place):
        return place
    return _SECRET.sub(r"\1=***", re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", place))


def _split_of(file: str) -> str | None:
    found = _SPLIT.fullmatch(file)
    return found[2] if found and not Path(file).exists() else None


def _rows(name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(split, row, the project's name for people); final rankings in place of those that they settle."""
    store = _open(name)
    from lit_llm.feedback.store.rankings import rows

    try:
        for row in rows(store, adjudicated=True):
            yield str(row["split"]), row, shown(name)
    finally:
        store.close()


def _open(name: str) -> Store:
    try:
        from lit_llm.feedback.store.engine import open_store
    except ImportError as error:
        raise UserError(
            f"{shown(name)}: a ranking project needs the ranking app's packages ({error.name} is missing); "
            "pip install 'lit-llm[feedback]'"
        ) from None
    return open_store(name)
