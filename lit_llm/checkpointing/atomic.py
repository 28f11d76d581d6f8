"""Checkpoints that are whole or absent, and that tell when a byte has changed since.

A file is written beside its final place, synced to the disk and renamed; its manifest (size and SHA-256) is written the
same way, last. A file without its manifest was never finished. Where it takes the place of another of its name, the
manifest goes first and says of both: whichever of them is there is whole. One that several processes wrote together is
a folder of the same name (``sharded``), with its manifest inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lit_llm.checkpointing.background import BackgroundWriter
from lit_llm.checkpointing.hashed_file import MANIFEST, HashedFile, change_of
from lit_llm.errors import UserError
from lit_llm.runtime import file_hashes
from lit_llm.runtime.atomic_files import take_away, written_atomically

FORMAT = 1  # of the manifest


def manifest_path(path: Path) -> Path:
    if path.is_dir():
        return path / MANIFEST
    return path.with_name(path.name + ".json")


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and its manifest. One of that name stays whole until the new one is: a full disk or a kill
    leaves either."""
    if path.is_dir():
        take_away(path)
    before = _manifest(path)
    if before is None:
        manifest_path(path).unlink(missing_ok=True)
    with written_atomically(path) as file:
        hashed = HashedFile(file)
        torch.save(content, hashed)  # type: ignore[arg-type]
        entry = {"format": FORMAT, "file": path.name, **hashed.entry, "step": content.get("global_step")}
        if before is not None:
            _write_manifest(path, entry | {"before": before})
    _write_manifest(path, entry)


def _write_manifest(path: Path, entry: dict[str, Any]) -> None:
    with written_atomically(manifest_path(path)) as file:
        file.write(json.dumps(entry).encode())


def _manifest(path: Path) -> dict[str, Any] | None:
    """What the manifest says of the file that is there; None where one of the two is not, or cannot be read."""
    try:
        entry: dict[str, Any] = json.loads(manifest_path(path).read_bytes())
        if not path.is_file() or entry["format"] != FORMAT:
            return None
        if "before" in entry and change_of(path, entry["bytes"], entry["sha256"]) is not None:
            entry = entry["before"]  # which a kill has kept in its place
        return {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def problem_with(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if every byte is as it was written."""
    if path.is_dir():
        problem: str | None = _sharded().problem_with(path)
        return problem
    if not path.is_file():
        return "is missing"
    try:
        manifest = json.loads(manifest_path(path).read_bytes())
        form, size, sha256 = manifest["format"], manifest["bytes"], manifest["sha256"]
        before = manifest.get("before")
    except FileNotFoundError:
        return "was not finished (no manifest)"
    except (OSError, ValueError, KeyError, TypeError):
        return "has a damaged manifest"
    if form != FORMAT:
        return f"was written in format {form}; this version reads format {FORMAT}"
    change = change_of(path, size, sha256)
    if change is not None and before is not None and change_of(path, before["bytes"], before["sha256"]) is None:
        return None  # the one that was to be replaced is still there
    return change


def load(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Reads a verified checkpoint; never unpickles code. Raises UserError if damaged or with non-finite weights.

    A folder's tensors are whole here, on the CPU. ``mmap``: a file's tensors stay in it until they are used, so that
    several processes of a machine hold them once.
    """
    if problem := problem_with(path):
        raise UserError(f"{path}: {problem}")
    content = _sharded().load(path) if path.is_dir() else _load_file(path, map_location, mmap)
    for name, value in content.get("state_dict", {}).items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{path}: the weight {name} is not finite")
    return content


def _load_file(path: Path, map_location: Any, mmap: bool) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:
        first_line = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: cannot be read as a checkpoint of weights and plain values ({first_line})") from error
    return content


def _sharded() -> Any:
    """Imported where there is such a folder: what it needs takes longer than a small checkpoint."""
    from lit_llm.checkpointing import sharded

    return sharded


def check(path: Path) -> None:
    """Raises UserError where ``load`` would; a folder is not held in memory for it."""
    if not path.is_dir():
        load(path)
        return
    if problem := problem_with(path):
        raise UserError(f"{path}: {problem}")
    _sharded().check_finite(path)


def identity_of(path: Path) -> list[list[int]]:
    """What changes when a checkpoint does: ``file_hashes.identity_of`` of each of its files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file_hashes.identity_of(file) for file in files]


def remove(path: Path) -> None:
    """The manifest goes first: a kill in between leaves an unfinished file, never a bad one that looks whole."""
    if path.is_dir():
        take_away(path)
        return
    manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints: ``Trainer(plugins=[AtomicCheckpointIO()])``.

    ``trainer.save_checkpoint(path, storage_options=BackgroundWriter())`` returns once the state is copied.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if isinstance(storage_options, BackgroundWriter):
            storage_options.start(Path(path), lambda copied: partial(save, copied(checkpoint), Path(path)))
        else:
            save(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,  # noqa: ARG002  always True
    ) -> dict[str, Any]:
        return load(Path(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))
