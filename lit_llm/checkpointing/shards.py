"""Tensors as shards in a folder, by ``torch.distributed.checkpoint``: each process writes the parts that it holds, and
reads those that it needs, whatever parts the processes before it held.

Torch's own reader unpickles the index of the shards, which can run code. Here it may name nothing but what an index is
made of, and the shards hold tensors alone, which ``weights_only`` reads.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata

from lit_llm.checkpointing.hashed_file import HashedFile
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import cannot_be_written

INDEX = ".metadata"  # torch's name for it

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in (
        "Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties", "MetadataIndex", "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}  # fmt: skip


def write(
    tensors: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    folder: Path,
    named: Path,
    group: dist.ProcessGroup | None,
) -> dict[str, dict[str, Any]]:
    """Write this process's parts into ``folder``, and in the first one the index. All processes of ``group`` call it.

    Args:
        tensors: by name, of which only the shapes and places are asked.
        held: what is written of them, by the same names: ``local`` of each, or a copy of it.
        named: what errors call the folder.

    Returns what a manifest says of each file that this process wrote. Raises ``CheckpointException``, in every process,
    with the errors of those that failed.
    """
    writer = _Writer(folder, named)
    state_dict_saver.save(dict(tensors), storage_writer=writer, planner=_Planner(held), process_group=group)
    return writer.files.entries


def read(tensors: dict[str, Tensor], folder: Path, index: Metadata, alone: bool = False) -> None:
    """Fill tensors, by the names in the index, with what the shards hold of them.

    ``alone``: this process reads for itself; else all processes call it, and each reads its parts. Raises UserError, in
    every process, where one cannot.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it is meant so
        try:
            state_dict_loader.load(dict(tensors), storage_reader=_Reader(folder, index), planner=planner, no_dist=alone)
        except CheckpointException as error:
            rank, (failure, _) = min(error.failures.items())
            raise UserError(f"{folder}: process {rank} cannot read it ({failure})") from None


def read_index(folder: Path, files: Collection[str]) -> Metadata:
    """Which part of which tensor lies where. Raises UserError for an index that names anything else than tensors in
    ``files``."""
    path = folder / INDEX
    try:
        with path.open("rb") as file:
            index = _IndexUnpickler(file).load()
    except (pickle.UnpicklingError, OSError, EOFError, AttributeError, ImportError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as an index of tensors ({str(error).splitlines()[0]})") from None
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise UserError(f"{path}: cannot be read as an index of tensors")
    for name, kind in index.state_dict_metadata.items():
        if not isinstance(kind, TensorStorageMetadata):
            raise UserError(f"{path}: {name} is no tensor, and nothing else is read")
    for part in index.storage_data.values():
        if part.relative_path not in files:
            raise UserError(f"{path}: names the file {part.relative_path!r}, which the manifest does not have")
    return index


def empty(index: Metadata, name: str, like: Tensor | None = None) -> Tensor:
    """Memory for a tensor of the index, in the type that it was written in: sharded as ``like`` where that is sharded
    and of its shape."""
    known = index.state_dict_metadata[name]
    assert isinstance(known, TensorStorageMetadata)
    if like is not None and like.shape == known.size:
        return torch.empty_like(like, dtype=known.properties.dtype, requires_grad=False)
    return torch.empty(known.size, dtype=known.properties.dtype, device=None if like is None else like.device)


def on_meta(index: Metadata, name: str) -> Tensor:
    """A tensor of the index without memory: its shape and type."""
    known = index.state_dict_metadata[name]
    assert isinstance(known, TensorStorageMetadata)
    return torch.empty(known.size, dtype=known.properties.dtype, device="meta")


def parts(folder: Path, index: Metadata) -> Iterator[tuple[str, Tensor]]:
    """Each part of each tensor by the tensor's name, one at a time in memory, file by file."""
    places: list[tuple[MetadataIndex, Any]] = sorted(
        index.storage_data.items(), key=lambda item: (item[1].relative_path, item[1].offset)
    )
    for key, place in places:
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            content = io.BytesIO(file.read(place.length))
        yield key.fqn, torch.load(content, map_location="cpu", weights_only=True)


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = getattr(torch, name, None) if module == "torch" else None
        if (module, name) in _ALLOWED or isinstance(found, torch.dtype):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no index does")


class _Planner(DefaultSavePlanner):
    """Says of live tensors what is where, and gives what is held of them, which may be a copy."""

    def __init__(self, held: Mapping[str, Tensor]) -> None:
        super().__init__(flatten_sharded_tensors=False)
        self.held = held

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.held[index.fqn]


class _HashedFiles(FileSystem):
    """Files that are written; remembers the manifest's entry of each."""

    def __init__(self, named: Path) -> None:
        self.named = named
        self.entries: dict[str, dict[str, Any]] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        try:
            with Path(path).open(mode) as file:
                hashed = HashedFile(file)
                yield hashed
        except Exception as error:  # here, where it is known what it came from: other processes get its text alone
            raise cannot_be_written(self.named, error) or error from error
        self.entries[Path(path).name] = hashed.entry

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.entries[Path(new_path).name] = self.entries.pop(Path(path).name)


class _Writer(FileSystemWriter):
    def __init__(self, folder: Path, named: Path) -> None:
        super().__init__(folder)
        self.fs = self.files = _HashedFiles(named)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()  # no place of this machine


class _Reader(FileSystemReader):
    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self.index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        return self.index
