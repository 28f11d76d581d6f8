"""The tensors in a GGUF file by Hugging Face's names, in their layout, and which types are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from lit_llm.model_sources.gguf_architectures import SHAPES, GGUFFamily, Piece
from lit_llm.model_sources.gguf_forms import AS_IT_IS, FORMS, STACKED, Array, Heads
from lit_llm.model_sources.gguf_header import GGUFHead, TensorRecord, gguf_package

_PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
_NO_HEADS = Heads(1, 1)


@dataclass(frozen=True)
class Tensor:
    """One tensor of the model folder: its name there, and how it is made from the file's."""

    name: str
    record: TensorRecord
    form: str = AS_IT_IS
    heads: Heads = _NO_HEADS

    @property
    def dtype(self) -> str:
        """As safetensors calls it: float types stay what they are, what is quantised or computed becomes float32."""
        kind = type_of(self.record)
        return kind if kind in _PLAIN and not FORMS[self.form].computes else "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """In the folder."""
        return self.record.shape[::-1] if self.form == "transposed" else self.record.shape

    def read(self, data: Array) -> Array:
        """The tensor from the file's bytes ``data`` (uint8): float32, float16 or float64; BF16 as its uint16."""
        found = floats(self.record, data) if FORMS[self.form].computes else _read(self.record, data)
        [one] = FORMS[self.form].back(found, self.heads)
        return one


def type_of(record: TensorRecord) -> str:
    """ggml's name of a tensor's type."""
    return str(gguf_package().GGMLQuantizationType(record.kind).name)


def _read(record: TensorRecord, data: Array) -> Array:
    raw = data[record.begin : record.begin + record.bytes]
    if (kind := type_of(record)) in _PLAIN:
        return raw.view(_PLAIN[kind]).reshape(record.shape)
    rows = raw.reshape(*record.shape[:-1], -1)
    found: Array = gguf_package().quants.dequantize(rows, gguf_package().GGMLQuantizationType(record.kind))
    return found.reshape(record.shape)


def floats(record: TensorRecord, data: Array) -> Array:
    """A tensor of the file as float32, in llama.cpp's layout."""
    found = _read(record, data)
    if type_of(record) == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32, copy=False)


def tensors_of(
    head: GGUFHead, row: GGUFFamily, sizes: Mapping[str, int], heads: Heads, layers: int, beside: Collection[str]
) -> list[Tensor]:
    """All tensors of the folder.

    Args:
        sizes: what the words of the table's shapes mean here.
        beside: tensors that were read elsewhere.
    """
    expected = {piece.name: piece for piece in row.pieces(layers, sizes.get("experts", 0)) if _is_here(piece, head)}
    _check_complete(head, expected, beside)
    found = list[Tensor]()
    for piece in expected.values():
        record = head.tensors[piece.name]
        _check(head, record, _shape(piece, row, sizes))
        if piece.form == STACKED:
            found += [Tensor(name, part) for name, part in zip(piece.theirs, _slices(record), strict=True)]
        else:
            found.append(Tensor(piece.theirs[0], record, piece.form, heads))
    return found


def _is_here(piece: Piece, head: GGUFHead) -> bool:
    """Whether a file should have it: heads may be the embedding, and of optional biases it has all or none."""
    if piece.name == "output.weight":
        return piece.name in head.tensors
    return piece.needed or has_biases(head)


def has_biases(head: GGUFHead) -> bool:
    """Of attention, where a file may have them."""
    return "blk.0.attn_q.bias" in head.tensors


def _shape(piece: Piece, row: GGUFFamily, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(sizes[word] for word in row.shapes.get(piece.part, SHAPES[piece.part]).split())
    return shape[:1] if piece.name.endswith(".bias") else shape


def _slices(record: TensorRecord) -> Iterator[TensorRecord]:
    """Each of the matrices that are one tensor: whole rows lie behind each other."""
    count = record.shape[0]
    size = record.bytes // count
    return (replace(record, shape=record.shape[1:], begin=record.begin + n * size, bytes=size) for n in range(count))


def _check_complete(head: GGUFHead, expected: Mapping[str, Piece], beside: Collection[str]) -> None:
    missing = [name for name in expected if name not in head.tensors]
    other = [name for name in head.tensors if name not in expected and name not in beside]
    for names, what in ((missing, "is missing"), (other, "is a tensor that its architecture has not here")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            head.refuse(f"{names[0]} {what}{more}; use a file that llama.cpp's converter made of a supported model")


def _check(head: GGUFHead, record: TensorRecord, shape: tuple[int, ...]) -> None:
    if record.shape != shape:
        head.refuse(f"{record.name} has the shape {list(record.shape)}, its metadata ask for {list(shape)}")
    known = readable()
    if record.kind not in known:
        names = ", ".join(known.values())
        head.refuse(f"{record.name} is {type_of(record)}, which gguf cannot make floats of; it knows {names}")


@cache
def readable() -> dict[int, str]:
    """The types that weights are read from, by ggml's number."""
    package = gguf_package()
    quants: Callable[..., Any] = package.quants.dequantize
    found = {}
    for kind, (_, size) in package.GGML_QUANT_SIZES.items():
        if kind.name in ("F64", "BF16"):
            found[int(kind)] = kind.name
            continue
        try:
            with np.errstate(all="ignore"):
                quants(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found[int(kind)] = kind.name
    return found
