"""Safetensors files: read with every damage named, written so that a crash leaves the old file or the new one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import beside, write_json
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.model_folder import only_pickled, refuse_pointer
from lit_llm.runtime.out_of_resources import is_out_of_memory
from lit_llm.runtime.progress_bars import LOOKS_EVERY, Bar

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # narrower ones have scales beside them
NAMED = 3  # keys that a message names, the rest are counted


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards of its index. Raises UserError if there is none."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        return [folder / name for name in _shards(index)]
    if (pickled := only_pickled(folder)) is not None:
        raise UserError(f"{folder}: {pickled}")
    raise UserError(f"{folder / SINGLE}: no such file; a model folder has config.json and {SINGLE}")


def _shards(index: Path) -> list[str]:
    refuse_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: damaged, should hold an object weight_map of tensor to file") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index}: weight_map names the file {name!r}, should be a file of the same folder")
    if not names:
        raise UserError(f"{index}: weight_map names no file, should hold every tensor's")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise UserError(
            f"{index.parent / absent[0]}: no such file, though {INDEX} names it ({len(absent)} of {len(names)} shards "
            "are missing); fetch it"
        )
    return names


class Found(NamedTuple):
    """Tensors as they were asked for, and the types that their files hold them in."""

    tensors: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]


def names_in(files: list[Path]) -> dict[str, Path]:
    """Which tensor lies in which file. Raises UserError for a damaged file, or a tensor that two of them hold."""
    found: dict[str, Path] = {}
    for path in files:
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                if key in found:
                    raise UserError(f"{path}: holds {key}, which {found[key].name} holds too; fetch the folder again")
                found[key] = path
    return found


def dtypes_in(files: list[Path]) -> dict[str, torch.dtype]:
    """The types in which files hold their tensors. Errors as ``names_in``, and for quantised ones."""
    found: dict[str, torch.dtype] = {}
    for path in files:
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                dtype = file.kind(key)
                if isinstance(dtype, str) or dtype not in (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool):
                    raise UserError(f"{path}: {key} is {dtype}, should be a floating-point weight (not quantised)")
                found[key] = dtype
    return found


def shapes_in(path: Path) -> dict[str, torch.Size]:
    """The shapes of a file's tensors, from its header. Errors as ``names_in``."""
    with _opened(path) as file:
        return {key: file.shape(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


def same_tensor(files: Mapping[str, Path], one: str, other: str) -> bool:
    """Whether two tensors of a folder, by ``names_in``, are equal in every number."""
    with _opened(files[one]) as first, _opened(files[other]) as second:
        if first.shape(one) != second.shape(other):
            return False
        return torch.equal(first.get(one).float(), second.get(other).float())


def read_tensors(
    files: list[Path],
    expected: Mapping[str, torch.Size],
    dtype: torch.dtype,
    device: torch.device | str,
    ignored: Callable[[str], bool] = lambda key: False,  # noqa: ARG005
    renamed: Mapping[str, str] | None = None,
) -> Found:
    """The tensors of ``files`` as ``dtype`` on ``device``, exactly those ``expected`` by name and shape.

    ``renamed``: names in the files to those that are expected. Raises UserError for a damaged file, a NaN or infinite
    weight, a missing or unexpected key, a wrong shape.
    """
    tensors: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    name = files[0].parent.name if files else ""
    with Bar(
        total=len(expected), desc=f"read {name}", unit=" tensors", leave=False, delay=LOOKS_EVERY,
        disable=not is_first_process(),
    ) as bar:  # fmt: skip
        for key, tensor in each_tensor(files, expected, ignored, renamed):
            dtypes[key] = tensor.dtype
            tensors[key] = tensor.to(device=device, dtype=dtype)
            bar.update()
    return Found(tensors, dtypes)


def each_tensor(
    files: list[Path],
    expected: Mapping[str, torch.Size],
    ignored: Callable[[str], bool] = lambda key: False,  # noqa: ARG005
    renamed: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``read_tensors`` one after the other, as the files hold them: one is in memory at a time. Errors
    as there; what is missing is told at the end."""
    found: set[str] = set()
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                key = (renamed or {}).get(name, name)
                if ignored(name):
                    continue
                found.add(key)
                if key not in expected:
                    continue
                _check_shape(path, name, file.shape(name), expected[key])
                tensor = file.get(name)
                _check_finite(path, name, tensor)
                yield key, tensor
    where = files[0] if len(files) == 1 else files[0].parent
    _compare(where, set(expected), found)


class _Tensors:
    """An opened file's tensors, each read into memory of its own.

    safetensors maps the file, and its pages then come one fault at a time: 538 MB took 8 seconds of a core on a
    virtual machine, and 2 read like this.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        self.entries: dict[str, Any] = {name: entry for name, entry in header.items() if name != "__metadata__"}
        self.begin = 8 + length

    def keys(self) -> list[str]:
        """In the order in which they lie in the file."""
        return sorted(self.entries, key=lambda name: self.entries[name]["data_offsets"])

    def kind(self, name: str) -> torch.dtype | str:
        """The type of its numbers; the file's name for it where it is none of ``KINDS``."""
        named = str(self.entries[name]["dtype"])
        return KINDS.get(named, named)

    def shape(self, name: str) -> torch.Size:
        return torch.Size(self.entries[name]["shape"])

    def get(self, name: str) -> Tensor:
        """Raises UserError for numbers of a type that weights do not have (those of quantised ones)."""
        dtype = self.kind(name)
        if dtype not in FLOATS or isinstance(dtype, str):
            raise UserError(f"{self.path}: {name} is {dtype}, should be a floating-point weight (not quantised)")
        tensor = torch.empty(self.shape(name), dtype=dtype)
        self.stream.seek(self.begin + self.entries[name]["data_offsets"][0])
        into = tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else bytearray()
        if self.stream.readinto(into) != len(into):  # type: ignore[attr-defined]
            raise OSError(f"{name} ends early")
        return tensor


@contextmanager
def _opened(path: Path) -> Iterator[_Tensors]:
    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt"):  # its checks of header, offsets and length
            pass
        with path.open("rb", buffering=0) as stream:
            yield _Tensors(path, stream)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; fetch it again") from None
    except (SafetensorError, OSError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged or cut short ({reason}); save or fetch it again") from None


def _check_shape(path: Path, key: str, found: torch.Size, shape: torch.Size) -> None:
    if found != shape:
        have, want = list(found), list(shape)
        hint = (
            "; vocab_size and the embedding differ" if key.endswith(("embed_tokens.weight", "lm_head.weight")) else ""
        )
        raise UserError(f"{path}: {key} has shape {have}, the configuration asks for {want}{hint}")


def _check_finite(path: Path, key: str, tensor: Tensor) -> None:
    # The extremes tell, and take no memory; look closer only if they are not finite.
    if tensor.numel() and not all(torch.isfinite(each) for each in tensor.aminmax()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(f"{path}: {key} has {bad} NaN or infinite of {tensor.numel()} weights; use an earlier folder")


def _compare(where: Path, expected: set[str], found: set[str]) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing:
        if missing == ["lm_head.weight"]:
            raise UserError(
                f"{where}: missing lm_head.weight, and config.json ties it to nothing; fetch the folder again, or set "
                "tie_word_embeddings to true there if the model's head is its embedding"
            )
        also = f"; unexpected: {_some(unexpected)}" if unexpected else ""
        raise UserError(f"{where}: missing {_some(missing)}, which the configuration asks for{also}")
    if unexpected:
        raise UserError(f"{where}: unexpected {_some(unexpected)}, which the configuration has no place for")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically. Raises NotWritten when the disk is full or the folder not writable."""
    held = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
    # transformers refuses a file that does not say which framework it is from.
    with beside(path) as temporary:
        save_file(held, temporary, metadata={"format": "pt"})
        temporary.chmod(0o666 & ~_umask())


def write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: int) -> list[Path]:
    """Write tensors in their order into files of at most ``limit`` bytes (a larger tensor has one for itself), and the
    index that names each one's file; one file alone is ``model.safetensors``, without an index. One shard is in memory
    at a time, and the index comes last. Returns what was written. Errors as ``write_tensors``."""
    places: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = size = 0

    def write() -> None:
        places.append(list(held))
        write_tensors(folder / f"model-{len(places):05}.safetensors", held)
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > limit:
            write()
            size = 0
        held[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    write()
    if len(places) == 1:
        return [(folder / "model-00001.safetensors").rename(folder / SINGLE)]
    files = [folder / f"model-{n:05}-of-{len(places):05}.safetensors" for n in range(1, len(places) + 1)]
    for n, file in enumerate(files, 1):
        (folder / f"model-{n:05}.safetensors").rename(file)
    index = {name: file.name for names, file in zip(places, files, strict=True) for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index}, indent=2)
    return [*files, folder / INDEX]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of a model's names, shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
