"""Documents to texts: in processes beside each other, with a bar, and not again while neither they nor the readers
change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_llm.data.documents.needs import NEEDS
from lit_llm.data.row_errors import RowError
from lit_llm.data.streams import read_bytes
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten, write_text
from lit_llm.runtime.progress_bars import Bar

log = logging.getLogger(__name__)
MAX_SIZE = 512 * 2**20  # bytes of a document
MAX_WORKERS = 8
AHEAD = 512 * 2**20  # bytes of documents that are open at a time; one is, however long
_NOT_KEPT = ("document_too_slow", "document_too_big")  # the machine's fault as much as the document's


@dataclass(frozen=True, slots=True)
class Text:
    """What a document says."""

    text: str
    parts: tuple[tuple[int, str], ...]  # (character, name) of where each page, section, sheet or slide begins
    encoding: str  # of a page of the web, where it was found out; "" for all that say it themselves


def read_documents(
    files: Sequence[str],
    kinds: Sequence[str],
    encoding: str,
    cache_dir: str | Path,
    processes: int | None = None,
) -> Iterator[Text | RowError]:
    """The text of each file, in order.

    Args:
        kinds: an extension for each file, one of ``KINDS``.
        encoding: of pages of the web that do not say theirs; ``auto`` finds it out.
        cache_dir: results are kept in ``documents`` below it.
        processes: at most so many read; None: as many as there are processors.

    Raises:
        UserError: the extra is not installed, or the cache cannot be written.
    """
    if not files:
        return
    if missing := [name.replace("_", "-") for name in NEEDS if find_spec(name) is None]:
        raise UserError(
            f'{files[0]}: reading documents needs {", ".join(missing)}; pip install -e ".[documents]", or take these '
            f"files out of data.path ({len(files)} of them)"
        )
    from lit_llm.data.documents.reader import versions
    from lit_llm.data.documents.workers import Workers

    count = min(len(files), processes or os.cpu_count() or 1, MAX_WORKERS)
    workers, cache = Workers(count), _Cache(Path(cache_dir) / "documents", f"{versions()}\0{encoding}")

    def one(file: str, kind: str, data: bytearray) -> Text | RowError:
        found = cache.get(kind, data)
        if found is None:
            found = workers.read(kind, data, encoding)
            if found.get("reason") not in _NOT_KEPT:
                cache.put(kind, data, found)
        if "reason" in found:
            return RowError(found["reason"], f"{file}: {found['what']}")
        for what in found.get("warnings", ()):
            log.warning("%s: %s", file, what)
        return Text(found["text"], tuple((int(at), str(name)) for at, name in found["parts"]), found["encoding"])

    def begun(file: str, kind: str) -> tuple[Future[Text | RowError], int]:
        """The document's text to come, and its bytes. Files are opened here, one after another."""
        try:
            data = read_bytes(file, MAX_SIZE)
            return pool.submit(one, file, kind, data), len(data)
        except RowError as error:
            failed: Future[Text | RowError] = Future()
            failed.set_result(RowError(error.reason, str(error)))
            return failed, 0

    pool, waiting = ThreadPoolExecutor(count), deque[tuple[Future[Text | RowError], int]]()
    try:
        with Bar(total=len(files), desc="read documents", unit=" documents", leave=False) as bar:
            for file, kind in zip(files, kinds, strict=True):
                waiting.append(begun(file, kind))
                while len(waiting) > 2 * count or (waiting and sum(size for _, size in waiting) > AHEAD):
                    yield waiting.popleft()[0].result()
                    bar.update(1)
            while waiting:
                yield waiting.popleft()[0].result()
                bar.update(1)
    finally:
        for future, _ in waiting:
            future.cancel()
        workers.close()
        pool.shutdown()


class _Cache:
    """Results by a hash of the document, its kind and what reads it."""

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder, self._made_by = folder, made_by

    def _file(self, kind: str, data: bytearray) -> Path:
        digest = hashlib.sha256(f"{self._made_by}\0{kind}\0".encode())
        digest.update(data)
        return self._folder / f"{digest.hexdigest()[:40]}.json"

    def get(self, kind: str, data: bytearray) -> dict[str, Any] | None:
        try:
            found = json.loads(self._file(kind, data).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and (
            {"reason", "what"} <= found.keys() or {"text", "parts", "encoding"} <= found.keys()
        )
        return found if whole else None

    def put(self, kind: str, data: bytearray, found: dict[str, Any]) -> None:
        file = self._file(kind, data)
        try:
            write_text(file, json.dumps(found, ensure_ascii=False))
        except NotWritten as error:
            raise UserError(
                f"{file.parent}: cannot keep the text of documents ({error.reason}); set data.cache_dir elsewhere"
            ) from None
