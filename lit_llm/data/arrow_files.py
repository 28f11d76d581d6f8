"""Rows of Arrow files (.arrow, .feather), and of folders that ``datasets`` wrote with ``save_to_disk``: pyarrow alone.

Such a folder holds ``data-00000-of-00001.arrow``, ``state.json``, which names the files that are the data set, and
``dataset_info.json``; one of several splits has a folder for each and ``dataset_dict.json``. Other .arrow files in it
are caches of what was computed from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lit_llm.data.compression import COMPRESSED
from lit_llm.data.row_errors import RowError, damaged
from lit_llm.data.stores import on_disk
from lit_llm.data.streams import open_bytes, read_bytes
from lit_llm.errors import UserError

ARROW = (".arrow", ".feather")
STATE, ABOUT = "state.json", ("state.json", "dataset_info.json", "dataset_dict.json")
AT_ONCE = 1024  # rows that are objects of Python at a time
_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"


def read_arrow(file: str) -> Iterator[dict[str, Any]]:
    """The rows of a file in the file format or the stream format.

    Raises RowError for a damaged file and UserError without pyarrow.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{file}: Arrow files need pyarrow; pip install 'lit-llm[parquet]'") from None
    if Path(file).suffix.lower() in COMPRESSED:
        raise UserError(f"{file}: a packed Arrow file; unpack it first")
    with open_bytes(file) as begin:  # a pointer in place of the file is called one
        magic = begin.read(len(_FILE))
    if magic.startswith(_FEATHER_1):
        raise RowError("damaged_file", f"{file}: Feather's version 1, of 2016; write it again as version 2 or .parquet")
    try:
        place = on_disk(file)
        in_archive = not Path(place).is_file()
        with pyarrow.BufferReader(bytes(read_bytes(file))) if in_archive else pyarrow.OSFile(place) as source:
            yield from _rows(_batches(pyarrow, source, magic))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError) as error:
        raise damaged(file, error, "not a readable Arrow file") from None


def _batches(pyarrow: Any, source: Any, magic: bytes) -> Iterator[Any]:
    if magic != _FILE:
        with pyarrow.ipc.open_stream(source) as stream:
            yield from stream
        return
    with pyarrow.ipc.open_file(source) as whole:
        for number in range(whole.num_record_batches):
            yield whole.get_batch(number)


def _rows(batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for first in range(0, batch.num_rows, AT_ONCE):
            yield from batch.slice(first, AT_ONCE).to_pylist()


def of_saved(files: Sequence[str]) -> tuple[set[str], set[str]]:
    """Of a folder's files those that only tell of a saved data set, and those beside one that are no part of it.

    Raises UserError for one that keeps which of its rows count apart, as ``datasets`` before 2.0 wrote it.
    """
    about: set[str] = set()
    others: set[str] = set()
    named: dict[Path, set[str]] = {}
    paths = {file: Path(file) for file in files}
    for path in paths.values():
        if path.name == STATE and (found := _data_files(path)) is not None:
            named[path.parent] = found
    for file, path in paths.items():
        saved = path.parent in named or any(path.parent == folder.parent for folder in named)
        if path.name in ABOUT and saved:
            about.add(file)
        elif path.parent in named and path.suffix == ".arrow" and path.name not in named[path.parent]:
            others.add(file)
    return about, others


def _data_files(state: Path) -> set[str] | None:
    """The names of the data set's files; None where the file is none of ``datasets``."""
    try:
        told = json.loads(state.read_text(encoding="utf-8"))
        found = {str(one["filename"]) for one in told["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if told.get("_indices_data_files"):
        raise UserError(
            f"{state}: the data set keeps apart which of its rows count, which is not read; save it again: "
            "load_from_disk(FOLDER).flatten_indices().save_to_disk(ANOTHER)"
        )
    missing = sorted(name for name in found if not (state.parent / name).is_file())
    if missing:
        raise UserError(f"{state}: names {missing[0]}, which is not in the folder; copy the whole data set")
    return found
