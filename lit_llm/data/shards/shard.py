"""A shard: the tokens of some documents and what is known of each, in a folder that is whole or absent.

========================  =================================================================================
``tokens.bin``            documents end to end, 2 bytes a token where the vocabulary has at most 65,536, else 4
``documents.npy``         (D,) of ``ABOUT``: key of the content, tokens, characters, words, line, file, language
``heldout.jsonl``         documents that may be held out, by their hash: {"number", "text", "source", "tags", "parts"}
``shard.json``            numbers, files, SHA-256 of the others; of a portion's last shard what became of its rows
========================  =================================================================================
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.reading import Last
from lit_llm.data.stores import on_disk
from lit_llm.data.token_cache import WRITTEN_AT_ONCE, TokenStore
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.atomic_files import folder_beside, take_away

ABOUT = np.dtype(
    [("key", "V16"), *((name, "<u4") for name in ("tokens", "characters", "words", "line", "file", "language"))]
)
"""``key``: ``filters.content_key``. ``file`` and ``language``: numbers in ``shard.json``."""
TOKENS, DOCUMENTS, HELDOUT, FACTS = "tokens.bin", "documents.npy", "heldout.jsonl", "shard.json"


class Writer:
    """Writes a shard: documents in their order, then ``commit``.

    Args:
        folder: its name when it is whole.
        dtype: of the tokens.
    """

    def __init__(self, folder: Path, dtype: type[np.unsignedinteger[Any]]) -> None:
        self.folder, self._dtype = folder, dtype
        self.tokens = self.characters = 0
        self._keys = bytearray()
        self._numbers = array("I")  # the others of ``ABOUT``, of each document
        self._files: dict[str, int] = {}
        self._languages: dict[str, int] = {}
        self._context = folder_beside(folder)
        self._temporary = self._context.__enter__()
        self._bin = (self._temporary / TOKENS).open("wb", WRITTEN_AT_ONCE)
        self._digest = hashlib.sha256()
        self._heldout = (self._temporary / HELDOUT).open("wb", WRITTEN_AT_ONCE)

    def __len__(self) -> int:
        return len(self._keys) // 16

    def write(self, document: Document, last: Last, ids: NDArray[Any], may_be_held_out: bool) -> None:
        """``ids``: (T,) of its tokens. ``last``: what its reading knows of it."""
        tokens = np.ascontiguousarray(ids, dtype=self._dtype)
        self._bin.write(tokens.data)
        self._digest.update(tokens.data)
        if may_be_held_out:
            row = {"number": len(self), "text": document.text, "source": document.source, "tags": document.tags,
                   "parts": document.parts}  # fmt: skip
            self._heldout.write(json.dumps(row).encode() + b"\n")  # ASCII: half a surrogate pair too
        self._keys += last.key
        file = self._files.setdefault(document.file, len(self._files))
        language = self._languages.setdefault(last.language, len(self._languages))
        self._numbers.extend((len(ids), len(document.text), last.words, last.line, file, language))
        self.tokens, self.characters = self.tokens + len(ids), self.characters + len(document.text)

    def commit(self, facts: Mapping[str, Any]) -> None:
        """All goes to the disk, and the folder takes its name. ``facts``: what else its JSON says.

        One of that name which is whole stays: another run was faster, and may be read already.
        """
        about = np.empty(len(self), dtype=ABOUT)
        about["key"] = np.frombuffer(bytes(self._keys), dtype="V16")
        for column, name in enumerate(ABOUT.names[1:]):  # type: ignore[index]
            about[name] = np.frombuffer(self._numbers, dtype=np.uint32).reshape(-1, 6)[:, column]
        np.save(self._temporary / DOCUMENTS, about)
        self._bin.close()
        self._heldout.close()
        hashes = {TOKENS: self._digest.hexdigest()} | {
            name: sha256(self._temporary / name) for name in (DOCUMENTS, HELDOUT)
        }
        told = {"documents": len(self), "tokens": self.tokens, "dtype": np.dtype(self._dtype).name,
                "files": list(self._files), "languages": list(self._languages), "sha256": hashes, **facts}  # fmt: skip
        (self._temporary / FACTS).write_text(json.dumps(told), encoding="utf-8")
        if self.folder.exists():
            there = opened(self.folder)
            if there is not None and there.is_whole():
                self.drop()
                return
            take_away(self.folder)
        self._context.__exit__(None, None, None)

    def drop(self, error: BaseException | None = None) -> None:
        """Nothing is left of it."""
        self._bin.close()
        self._heldout.close()
        try:
            error = error or _Dropped()
            self._context.__exit__(type(error), error, error.__traceback__)
        except _Dropped:
            pass


class _Dropped(Exception):  # noqa: N818
    """A shard that is not to be."""


class Shard:
    """A shard on the disk or in a store, whose arrays are mapped when they are asked for.

    Args:
        folder: its path, or its URL in a store.
        facts: what its JSON says, where that is known.
    """

    def __init__(self, folder: Path | str, facts: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = facts or json.loads(self._file(FACTS).read_text(encoding="utf-8"))
        self.documents, self.tokens = int(self.facts["documents"]), int(self.facts["tokens"])
        self.files: list[str] = self.facts["files"]

    def _file(self, name: str) -> Path:
        return Path(on_disk(f"{self.folder}/{name}"))

    @property
    def read_from(self) -> list[str]:
        """The files that its rows are read from."""
        return [f"{self.folder}/{name}" for name in (TOKENS, DOCUMENTS)]

    def about(self) -> NDArray[Any]:
        """(D,) of ``ABOUT``, mapped."""
        return np.load(self._file(DOCUMENTS), mmap_mode="r") if self.documents else np.empty(0, dtype=ABOUT)

    def store(self) -> TokenStore:
        """The tokens of its documents."""
        dtype = np.dtype(self.facts["dtype"])
        tokens: Any = np.memmap(self._file(TOKENS), dtype, "r") if self.tokens else np.zeros(0, dtype)
        bounds = np.concatenate([[0], np.cumsum(self.about()["tokens"], dtype=np.int64)])
        return TokenStore(tokens, bounds, None)

    def heldout(self, numbers: Sequence[int]) -> Iterator[tuple[int, Document]]:
        """Those of its documents that may be held out and are wanted, with their numbers."""
        wanted = set(numbers)
        if not wanted:
            return
        about = self.about()
        with self._file(HELDOUT).open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                if row["number"] in wanted:
                    parts = tuple((int(at), str(name)) for at, name in row["parts"])
                    file = self.files[int(about["file"][row["number"]])]
                    yield row["number"], Document(row["text"], row["source"], row["tags"], parts, file)

    def check(self) -> None:
        """Raises UserError where what rows are read from is not what was written."""
        for name in (TOKENS, DOCUMENTS):
            try:
                wrong = "is damaged" if sha256(self._file(name)) != self.facts["sha256"][name] else ""
            except OSError as error:
                wrong = f"cannot be read ({error.strerror})"
            if wrong:
                again = "copy it again" if "place" in self.facts else "remove its folder: a new start makes it again"
                raise UserError(f"{self.folder}/{name}: {wrong}; {again}")

    def is_whole(self) -> bool:
        """Whether every byte is what was written."""
        try:
            return all(sha256(self._file(name)) == known for name, known in self.facts["sha256"].items())
        except OSError:
            return False


def opened(folder: Path) -> Shard | None:
    """The shard in a folder, or None where there is none or its files are not as long as they should be."""
    try:
        shard = Shard(folder)
        size = np.dtype(shard.facts["dtype"]).itemsize * shard.tokens
        right = (folder / TOKENS).stat().st_size == size and len(shard.about()) == shard.documents
        return shard if right and (folder / HELDOUT).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sha256(file: Path) -> str:
    """Of every byte of a file as it is now, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
