"""The head of a GGUF file: its metadata and where its tensors lie; every damage is one line that names the file.

The format is ggml's (docs/gguf.md of its repository): magic, version, the numbers of tensors and of entries, the
entries, a record for each tensor, the tensors' bytes from the next multiple of ``general.alignment`` on.
Nothing that the file claims is believed: lengths are held against the bytes that are there before anything is made.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

from lit_llm.errors import UserError
from lit_llm.runtime.model_folder import refuse_pointer

MAGIC = b"GGUF"
Quantization = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]  # that files are written in
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4  # ggml's GGML_MAX_DIMS


def gguf_package() -> ModuleType:
    """The package ``gguf``, which knows the quantisations. Raises UserError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the package gguf: pip install 'lit-llm[gguf]' (or pip install gguf)") from None
    return gguf


@dataclass(frozen=True)
class TensorRecord:
    """``shape`` is row-major, as numpy's: the file has it the other way round. ``kind``: ggml's number of the type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int  # in the file
    bytes: int


@dataclass(frozen=True)
class GGUFHead:
    path: Path
    values: Mapping[str, Any]  # metadata; arrays are lists
    tensors: Mapping[str, TensorRecord]

    def refuse(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {what}")

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """An entry of this type (a whole number will do for a float); ``default`` where there is none."""
        found = self.values.get(key)
        if found is None:
            return default
        if isinstance(found, bool) is not (kind is bool) or not isinstance(
            found, (int, kind) if kind is float else kind
        ):
            self.refuse(f"{key}={str(found)[:40]!r} should be {_WORDS[kind]}")
        return kind(found)

    def needed(self, key: str, kind: type) -> Any:
        found = self.value(key, kind)
        if found is None:
            self.refuse(f"{key} is missing from its metadata; make the file again with llama.cpp's converter")
        return found

    def items(self, key: str, kind: type) -> list[Any] | None:
        """An array whose elements are of this type."""
        found = self.value(key, list)
        if found is not None and not all(isinstance(one, kind) and not isinstance(one, bool) for one in found):
            self.refuse(f"{key} should hold {_WORDS[kind]} in every place")
        return found  # type: ignore[no-any-return]


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "an array"}


def read_head(path: Path) -> GGUFHead:
    """Raises UserError for what is no GGUF file of version 2 or 3, is cut short, or says what cannot be."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise UserError(f"{path}: is no GGUF file (it does not begin with GGUF); fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).head()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 4

    def head(self) -> GGUFHead:
        (version,) = self._take("I")
        if version not in (2, 3):
            kind = "big-endian" if version in (2 << 24, 3 << 24) else f"of version {version}"
            self._refuse(f"is a GGUF file {kind}; versions 2 and 3 in little-endian order are read")
        tensors, entries = self._take("QQ")
        self._room(entries, 13, "metadata entries")
        values: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            if key in values:
                self._refuse(f"names {key[:80]!r} twice; fetch it again")
            values[key] = self._value(self._take("I")[0])
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
            self._refuse(f"general.alignment={str(alignment)[:40]} should be a power of two from 8 on")
        self._room(tensors, 24, "tensors")
        records = [self._record() for _ in range(tensors)]
        begin = -(-self.at // alignment) * alignment
        found = {name: self._placed(begin, alignment, name, *rest) for name, *rest in records}
        if len(found) < len(records):
            self._refuse("holds two tensors of one name; fetch it again")
        return GGUFHead(self.path, values, found)

    def _record(self) -> tuple[str, tuple[int, ...], int, int]:
        name, (dimensions,) = self._text(), self._take("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            self._refuse(f"tensor {name[:80]!r} has {dimensions} dimensions; fetch it again")
        shape = self._take("Q" * dimensions)[::-1]
        kind, offset = self._take("IQ")
        return name, shape, kind, offset

    def _placed(self, begin: int, alignment: int, name: str, shape: Any, kind: Any, offset: Any) -> TensorRecord:
        block = block_sizes().get(kind)
        if block is None:
            self._refuse(f"tensor {name!r} is of the type {kind}, which gguf {_version()} does not know; update gguf")
        weights, size = block
        count = 1
        for side in shape:
            count *= side
        if 0 in shape or shape[-1] % weights:
            self._refuse(f"tensor {name!r} of shape {list(shape)} is not whole blocks of {weights}; fetch it again")
        length = count // weights * size
        if offset % alignment or begin + offset + length > len(self.data):
            self._refuse(f"cut short or damaged: tensor {name!r} would end beyond its {len(self.data):,} bytes")
        return TensorRecord(name, tuple(shape), kind, begin + offset, length)

    def _value(self, kind: int, inside: bool = False) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY and not inside:
            (of,), (length,) = self._take("I"), self._take("Q")
            if of in _NUMBERS:
                self._room(length, struct.calcsize(_NUMBERS[of]), "numbers in an array")
                return list(self._take(f"{length}{_NUMBERS[of]}"))
            self._room(length, 8, "texts in an array")
            return [self._value(of, inside=True) for _ in range(length)]
        if kind not in _NUMBERS:
            self._refuse(f"damaged: metadata of the type {kind} at byte {self.at}; fetch it again")
        return self._take(_NUMBERS[kind])[0]

    def _text(self) -> str:
        (length,) = self._take("Q")
        self._room(length, 1, "characters of a text")
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError:
            self._refuse(f"damaged: a text before byte {self.at} is no UTF-8; fetch it again")

    def _take(self, kinds: str) -> tuple[Any, ...]:
        """Numbers at the place reached, which moves behind them."""
        size = struct.calcsize(f"<{kinds}")
        self._room(1, size, "numbers")
        self.at += size
        return struct.unpack_from(f"<{kinds}", self.data, self.at - size)

    def _room(self, count: int, size: int, what: str) -> None:
        if count * size > len(self.data) - self.at:
            self._refuse(f"cut short or damaged: {what} beyond its {len(self.data):,} bytes; fetch it again")

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {what}")


def block_sizes() -> dict[int, tuple[int, int]]:
    """Weights and bytes of a block, by ggml's number of the type."""
    return {int(kind): sizes for kind, sizes in gguf_package().GGML_QUANT_SIZES.items()}


def _version() -> str:
    from importlib import metadata

    return metadata.version("gguf")
