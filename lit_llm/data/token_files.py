"""Files of tokens that others made: Megatron's ``.idx`` beside its ``.bin``, and litdata's folders with ``index.json``.

A document's tokens stay as they are. What they were made with, the files do not say: the tokenizer must be the same.

* Megatron: ``MMIDIDX``, a version, a number for the type of the tokens, the numbers of sequences and of borders between
  documents; then lengths, places in the ``.bin`` and the borders. A document is one or several sequences.
* litdata: ``index.json`` names chunks and the form of their items (``no_header_tensor:N`` or ``no_header_numpy:N``); a
  chunk is the number of its items, their borders in bytes, and the items, each a document.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.stores import is_remote, on_disk
from lit_llm.errors import UserError
from lit_llm.runtime.counted import counted
from lit_llm.runtime.file_hashes import identity_of

IDX, BIN, INDEX = ".idx", ".bin", "index.json"
PREPARED = "prepared.json"  # of shards that this project made (shards/prepared.py)
_HEADER = b"MMIDIDX\x00\x00"
_MEGATRON = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_TENSOR = {11: np.uint8, 12: np.int8, 13: np.int16, 14: np.int16, 15: np.int32, 16: np.int32, 17: np.int64,
           18: np.int64}  # fmt: skip
_NUMPY = {0: np.int8, 1: np.int16, 2: np.int32, 3: np.int64, 4: np.uint8, 5: np.uint16, 6: np.uint32, 7: np.uint64}


class Documents(NamedTuple):
    """The documents of a file: where the tokens of each begin and end."""

    tokens: NDArray[Any]  # of all, mapped
    bounds: NDArray[np.int64]  # (D, 2)

    def ids(self, number: int) -> NDArray[Any]:
        """The tokens of a document."""
        begin, end = self.bounds[number]
        return np.asarray(self.tokens[int(begin) : int(end)])


def token_files(path: str) -> list[str] | None:
    """The files of a corpus of tokens: what names them first; None for a path that names none.

    Raises UserError where some are missing, or of a form that is not read.
    """
    if path.rsplit("/", 1)[-1] == PREPARED and (is_remote(path) or Path(path).is_file()):
        return [path]
    if not is_remote(path) and (Path(path) / PREPARED).is_file():
        return [str(Path(path) / PREPARED)]
    if path.endswith((IDX, BIN)):  # a pair, named by either
        stem = path[: -len(IDX)]
        index, tokens = stem + IDX, stem + BIN
        if is_remote(path):
            return [index, tokens]
        if not Path(path).is_file():
            return None
        if not Path(tokens).is_file():
            raise UserError(f"{path}: Megatron's index, and {tokens}, which has the tokens, is not there")
        if not Path(index).is_file() and Path(path).with_name(INDEX).is_file():
            raise UserError(f"{path}: one of the chunks of a folder of litdata's; give the folder of its {INDEX}")
        if not Path(index).is_file():
            raise UserError(
                f"{path}: a .bin is read with Megatron's index, which says where its documents begin, and {index} is "
                "not there; other data is to be saved as .jsonl"
            )
        return [index, tokens]
    index = path if path.endswith(f"/{INDEX}") or path == INDEX else str(Path(path) / INDEX)
    if not (is_remote(path) and index == path) and not Path(index).is_file():
        return None
    try:
        told = json.loads(Path(on_disk(index)).read_text(encoding="utf-8"))
        names = [str(chunk["filename"]) for chunk in told["chunks"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another index
    _form(index)
    chunks = [index.removesuffix(INDEX) + name for name in names]
    if missing := [chunk for chunk in chunks if not is_remote(chunk) and not Path(chunk).is_file()]:
        raise UserError(f"{index}: names {len(missing)} chunks that are not there, the first {missing[0]}")
    return [index, *chunks]


def is_tokens(files: Iterable[str]) -> bool:
    """Whether these are what ``token_files`` gives: no other data has such files."""
    return any(file.endswith(".bin") or is_prepared(file) for file in files)


def is_prepared(file: str) -> bool:
    """Whether a file names shards that this project made."""
    return file.rsplit("/", 1)[-1] == PREPARED


def documents(file: str, index: str) -> Documents:
    """The documents of an ``.idx`` or a chunk. ``index``: the first of ``token_files``."""
    try:
        if not file.endswith(IDX):
            return _of_chunk(file, _form(index), tuple(identity_of(Path(on_disk(file)))))
        other = file.removesuffix(IDX) + ".bin"
        return _of_megatron(file, *(tuple(identity_of(Path(on_disk(one)))) for one in (file, other)))
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        what = " ".join(str(error).split())[:100]
        raise UserError(f"{file}: no tokens can be read from it ({what})") from None


@lru_cache(4)
def _of_megatron(file: str, *_: tuple[int, ...]) -> Documents:
    index = np.memmap(on_disk(file), np.uint8, "r")
    if bytes(index[:9]) != _HEADER:
        raise ValueError("it does not begin as Megatron's index does")
    version, code, sequences, borders = struct.unpack("<QBQQ", bytes(index[9:34]))
    if version != 1 or code not in _MEGATRON:
        raise ValueError(f"version {version}, tokens of type {code}")
    dtype, at = np.dtype(_MEGATRON[code]), 34
    lengths = np.frombuffer(index, np.int32, sequences, at).astype(np.int64)
    places = np.frombuffer(index, np.int64, sequences, at + 4 * sequences) // dtype.itemsize
    between = np.frombuffer(index, np.int64, borders, at + 12 * sequences)
    if sequences and (places[1:] != (places + lengths)[:-1]).any():
        raise ValueError("its sequences do not follow each other")
    ends = np.append(places, places[-1:] + lengths[-1:]) if sequences else np.zeros(1, np.int64)
    tokens: Any = np.memmap(on_disk(file.removesuffix(IDX) + ".bin"), dtype, "r")
    if len(tokens) < ends[-1]:
        raise ValueError(f"the .bin has {len(tokens):,} of {counted(int(ends[-1]), 'token')}")
    return Documents(tokens, np.stack([ends[between[:-1]], ends[between[1:]]], axis=1))


@lru_cache(4)
def _of_chunk(file: str, dtype: np.dtype[Any], *_: tuple[int, ...]) -> Documents:
    place = on_disk(file)
    with Path(place).open("rb") as stream:
        (items,) = struct.unpack("<I", stream.read(4))
        borders = np.frombuffer(stream.read(4 * (items + 1)), np.uint32).astype(np.int64)
    begin = 4 * (items + 2)
    if len(borders) != items + 1 or borders[0] != begin or (np.diff(borders) % dtype.itemsize).any():
        raise ValueError("its items are no tokens of the form that index.json says")
    tokens: Any = np.memmap(place, dtype, "r", offset=begin)
    places = (borders - begin) // dtype.itemsize
    if len(tokens) < places[-1]:
        raise ValueError(f"it has {len(tokens):,} of {counted(int(places[-1]), 'token')}")
    return Documents(tokens, np.stack([places[:-1], places[1:]], axis=1))


def _form(index: str) -> np.dtype[Any]:
    """What the tokens of litdata's chunks are."""
    config = json.loads(Path(on_disk(index)).read_text(encoding="utf-8"))["config"]
    form = config.get("data_format") or [""]
    name, _, number = str(form[0]).partition(":")
    known = {"no_header_tensor": _TENSOR, "no_header_numpy": _NUMPY}.get(name, {})
    found = known.get(int(number)) if number.isdecimal() else None
    if config.get("compression") or config.get("encryption") or len(form) != 1 or found is None:
        packed = config.get("compression") or config.get("encryption") or "not packed"
        raise UserError(
            f"{index}: items of the form {', '.join(map(str, form))}, {packed}; chunks are read that litdata's "
            "TokensLoader reads, not packed: optimize(..., item_loader=TokensLoader())"
        )
    return np.dtype(found)
