"""The token cache: documents as numbers on the disk, memory-mapped, made once for a content, tokenizer and parameters.

A folder per key: ``tokens.bin`` (documents end to end, 4 bytes a token), ``bounds.bin`` (where each document begins),
``trained.bin`` (one byte a token, where only a part is trained) and ``store.json``. The key is a hash of all
that the tokens depend on, the code that makes tokens and masks with it, so that a stale folder is never found. A folder
appears under its name only when complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten, folder_beside
from lit_llm.runtime.code_key import code_key
from lit_llm.runtime.progress_bars import Bar

CODE = ("lit_llm.text", "lit_llm.data.token_cache", "lit_llm.records", "tokenizers==", "Jinja2==")
"""What makes tokens and masks beside the module that asks for them. Its hash is part of every key."""

WRITTEN_AT_ONCE = 2**20  # bytes

Encoded = tuple[Sequence[int], Sequence[bool] | None]
"""A document's ids, and which are trained (None: all of them)."""


class TokenStore:
    """The tokens of a sequence of documents: what rows are packed from (``packing.TokenizedDocuments``)."""

    def __init__(self, tokens: NDArray[Any], bounds: NDArray[np.int64], trained: NDArray[np.uint8] | None) -> None:
        self._tokens, self._bounds, self._trained = tokens, bounds, trained

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, (documents,)."""
        return np.diff(self._bounds)

    def lengths_of(self, first: int, stop: int) -> list[int]:
        """Tokens of the documents ``first`` to ``stop``."""
        lengths: list[int] = np.diff(self._bounds[first : stop + 1]).tolist()
        return lengths

    def tokens(self, document: int, start: int, stop: int) -> NDArray[Any]:
        first = int(self._bounds[document])
        return np.asarray(self._tokens[first + start : first + stop])

    def trained(self, document: int, start: int, stop: int) -> NDArray[np.bool_]:
        if self._trained is None:
            return np.ones(stop - start, dtype=bool)
        first = int(self._bounds[document])
        return np.asarray(self._trained[first + start : first + stop]).astype(bool)


def content_hash(parts: Iterable[str]) -> str:
    """SHA-256 of a sequence of strings; their borders count too."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def cached_tokens(
    documents: Sequence[Any],
    encode_batch: Callable[[Sequence[Any]], Sequence[Encoded]],
    *,
    key: str,
    cache_dir: str | Path,
    size_of: Callable[[Any], int] = len,
    description: str = "tokenize",
) -> TokenStore:
    """The tokens of ``documents``: from the cache if they are there, else made in batches with a progress bar.

    Args:
        encode_batch: documents to their ids and what is trained of them. The code of its module is part of the key.
        key: hash of everything else that the tokens depend on, but for the code of ``CODE``.
        cache_dir: the folder ``tokens/<key>`` is made in it.
        size_of: a document's size in characters, for batches of even work.

    Raises:
        UserError: the cache's folder cannot be written.
    """
    code = code_key(*CODE, encode_batch.__module__)
    folder = Path(cache_dir) / "tokens" / hashlib.sha256(f"{code}\0{key}".encode()).hexdigest()[:32]
    store = _opened(folder)
    if store is None:
        try:
            _write(folder, _encoded(documents, encode_batch, size_of, description), len(documents))
        except NotWritten as error:
            raise UserError(
                f"{folder}: cannot write the token cache ({error.reason}); set data.cache_dir elsewhere"
            ) from None
        store = _opened(folder)
        assert store is not None, f"{folder} was just written"
    return store


def _encoded(
    documents: Sequence[Any],
    encode_batch: Callable[[Sequence[Any]], Sequence[Encoded]],
    size_of: Callable[[Any], int],
    description: str,
) -> Iterator[Encoded]:
    # Said outright, since the library warns at every fork of a process that has used its threads; workers only read.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with Bar(total=len(documents), desc=description, unit=" documents", leave=False) as bar:
        for batch in _batches(documents, size_of):
            yield from encode_batch(batch)
            bar.update(len(batch))


def _batches(documents: Sequence[Any], size_of: Callable[[Any], int]) -> Iterator[list[Any]]:
    """At most 2 million characters and 2,000 documents each: little memory, and a bar that moves."""
    batch: list[Any] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += size_of(document)
        if size >= 2_000_000 or len(batch) >= 2000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(folder: Path, encoded: Iterable[Encoded], count: int) -> None:
    """Writes beside ``folder`` and renames when all is on the disk; another process may have been faster."""
    try:
        with folder_beside(folder) as temporary:
            _write_arrays(temporary, encoded, count)
            if folder.exists():  # only a damaged one gets here: _opened refused it
                folder.rename(temporary / "damaged")
    finally:
        shutil.rmtree(folder / "damaged", ignore_errors=True)


def _write_arrays(folder: Path, encoded: Iterable[Encoded], count: int) -> None:
    bounds = np.zeros(count + 1, dtype=np.int64)
    partly = False
    with (
        (folder / "tokens.bin").open("wb", WRITTEN_AT_ONCE) as tokens,
        (folder / "trained.bin").open("wb", WRITTEN_AT_ONCE) as trained,
    ):
        for index, (ids, mask) in enumerate(encoded):
            tokens.write(np.asarray(ids, dtype=np.uint32).data)
            if mask is not None:
                trained.write(np.asarray(mask, dtype=np.uint8).data)
                partly = True
            bounds[index + 1] = len(ids)
    np.cumsum(bounds, out=bounds)
    bounds.tofile(folder / "bounds.bin")
    facts = {"documents": count, "tokens": int(bounds[-1]), "trained": partly}
    (folder / "store.json").write_text(json.dumps(facts))


def _opened(folder: Path) -> TokenStore | None:
    """The store in a folder, or None where there is none or its files are not as long as they should be."""
    try:
        facts = json.loads((folder / "store.json").read_text())
        count, tokens = int(facts["documents"]), int(facts["tokens"])
        return TokenStore(
            _mapped(folder / "tokens.bin", np.uint32, tokens),
            _mapped(folder / "bounds.bin", np.int64, count + 1),
            _mapped(folder / "trained.bin", np.uint8, tokens) if facts["trained"] else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(file: Path, dtype: Any, count: int) -> NDArray[Any]:
    if file.stat().st_size != count * np.dtype(dtype).itemsize:
        raise ValueError(f"{file} is not as long as it should be")
    return np.memmap(file, dtype=dtype, mode="r") if count else np.zeros(0, dtype=dtype)
