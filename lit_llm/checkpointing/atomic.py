"""Checkpoint files that are whole or absent, and that tell when a byte has changed since.

A file is written beside its final place, synced to the disk and renamed; its manifest (size and SHA-256) is written the
same way, last. A file without its manifest was never finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import written_atomically

FORMAT = 1  # of the manifest


class _Hashing:
    """A file for writing that hashes on the way, so that no second pass over gigabytes is needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self.size += view.nbytes
        self.file.write(view)
        return view.nbytes

    def flush(self) -> None:
        self.file.flush()


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and then its manifest. The manifest of a file that is replaced goes first."""
    manifest_path(path).unlink(missing_ok=True)
    with written_atomically(path) as file:
        hashing = _Hashing(file)
        torch.save(content, hashing)  # type: ignore[arg-type]
    entry = {
        "format": FORMAT,
        "file": path.name,
        "bytes": hashing.size,
        "sha256": hashing.sha256.hexdigest(),
        "step": content.get("global_step"),
    }
    with written_atomically(manifest_path(path)) as file:
        file.write(json.dumps(entry).encode())


def problem_with(path: Path) -> str | None:
    """What is wrong with a checkpoint file, in words; None if every byte is as it was written."""
    if not path.is_file():
        return "is missing"
    try:
        manifest = json.loads(manifest_path(path).read_bytes())
        form, size, sha256 = manifest["format"], manifest["bytes"], manifest["sha256"]
    except FileNotFoundError:
        return "was not finished (no manifest)"
    except (OSError, ValueError, KeyError, TypeError):
        return "has a damaged manifest"
    if form != FORMAT:
        return f"was written in format {form}; this version reads format {FORMAT}"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes instead of {size}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return "is damaged (its SHA-256 differs from the manifest's)"
    return None


def load(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a verified checkpoint; never unpickles code. Raises UserError if damaged or with non-finite weights."""
    if problem := problem_with(path):
        raise UserError(f"{path}: {problem}")
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        first_line = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: cannot be read as a checkpoint of weights and plain values ({first_line})") from error
    for name, value in content.get("state_dict", {}).items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{path}: the weight {name} is not finite")
    return content


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints: ``Trainer(plugins=[AtomicCheckpointIO()])``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        save(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,  # noqa: ARG002  always True
    ) -> dict[str, Any]:
        return load(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """The manifest goes first: a kill in between leaves an unfinished file, never a bad one that looks whole."""
        manifest_path(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)
