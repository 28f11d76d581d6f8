"""Which corpora are read as a stream: by the size of their files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from lit_llm.data.archives import home
from lit_llm.data.compression import COMPRESSED
from lit_llm.data.options import DataPath, TextOptions
from lit_llm.data.projects import is_project
from lit_llm.data.shards.fates import MOST_HELD_OUT
from lit_llm.data.shards.portions import size_of
from lit_llm.data.sources import resolve
from lit_llm.data.token_files import is_tokens
from lit_llm.errors import UserError

log = logging.getLogger(__name__)
PACKED = 4
"""How many bytes of text are taken for one that is packed."""
MANY_HELD_OUT = 256 * 2**20  # bytes
MEMORY = 5
"""Bytes of memory that a corpus in memory takes for each of its text, about: text, records, tokens and their plan."""


def is_streamed(options: TextOptions, path: DataPath) -> bool:
    """Whether a corpus has more than ``data.stream_above``. A data set of the hub, of which that is not known, has not.

    Raises UserError for one that has, where what is asked for needs all of it in memory.
    """
    files = list(chain.from_iterable(resolve(path, options.cache_dir).values()))
    if any(file.startswith("hub:") or is_project(file) for file in files):
        return False
    if is_tokens(files):
        return True  # wherever there is a way for them
    size = sum(map(_bytes, dict.fromkeys(map(home, files))))
    if size <= options.stream_above * 2**20:
        return False
    if options.deduplicate == "near":
        raise UserError(
            f"data.deduplicate=near: compares all texts in memory, and data.path={path} has {size >> 20:,} MiB, more "
            f"than data.stream_above={options.stream_above}; give deduplicate=exact, or raise stream_above if memory "
            f"holds {MEMORY * size >> 20:,} MiB"
        )
    return True


def tell_of_many_held_out(path: DataPath, files: Mapping[str, Sequence[str]]) -> None:
    """Warns of files that hold out so much that they decide how much memory a run takes: they are not streamed."""
    size = sum(map(_bytes, dict.fromkeys(home(file) for some in files.values() for file in some)))
    if size > MANY_HELD_OUT:
        log.warning(
            "data.path=%s: what it holds out (%s) has %s MiB, and takes memory of about %d times that; give fewer "
            "texts there: %d million characters are an evaluation of minutes",
            *(path, ", ".join(files), f"{size >> 20:,}", MEMORY, MOST_HELD_OUT // 10**6),
        )


def _bytes(file: str) -> int:
    size, path = size_of(file), Path(file.partition("?")[0])
    is_packed = path.suffix.lower() in (*COMPRESSED, ".zip", ".tgz", ".tbz2", ".txz", ".tzst", ".parquet")
    return size * PACKED if is_packed else size
