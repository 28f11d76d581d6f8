"""Safetensors files: read with every damage named, written so that a crash leaves the old file or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_llm.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMED = 3  # keys that a message names, the rest are counted


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards of its index. Raises UserError if there is none."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if index.is_file():
        return [folder / name for name in _shards(index)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise UserError(f"{folder}: has pickled weights only, which can run code; convert them to {SINGLE}")
    raise UserError(f"{folder / SINGLE}: no such file; a model folder has config.json and {SINGLE}")


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: damaged, should hold an object weight_map of tensor to file") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index}: weight_map names the file {name!r}, should be a file of the same folder")
    return names


def read_tensors(
    files: list[Path],
    expected: Mapping[str, torch.Size],
    ignored: Callable[[str], bool],
    dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """The tensors of ``files`` as ``dtype`` on ``device``, exactly those ``expected`` by name and shape.

    Raises UserError for a damaged file, a NaN or infinite weight, a missing or unexpected key, a wrong shape.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        for key, tensor in _tensors(path):
            if ignored(key):
                continue
            if key in expected:
                _check(path, key, tensor, expected[key])
                tensor = tensor.to(device=device, dtype=dtype, copy=True)  # the file stays its own
            tensors[key] = tensor
    where = files[0] if len(files) == 1 else files[0].parent
    _compare(where, set(expected), set(tensors))
    return tensors


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                yield key, file.get_tensor(key)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though the index names it; fetch the missing shard") from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged or cut short ({reason}); save or fetch it again") from None


def _check(path: Path, key: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        have, want = list(tensor.shape), list(shape)
        hint = (
            "; vocab_size and the embedding differ" if key.endswith(("embed_tokens.weight", "lm_head.weight")) else ""
        )
        raise UserError(f"{path}: {key} has shape {have}, the configuration asks for {want}{hint}")
    if not tensor.is_floating_point():
        raise UserError(f"{path}: {key} is {tensor.dtype}, should be a floating-point weight (not quantised)")
    # The sum is finite if all are, and takes no memory; look closer only if it is not.
    if not torch.isfinite(tensor.sum(dtype=torch.float32)) and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(f"{path}: {key} has {bad} NaN or infinite of {tensor.numel()} weights; use an earlier folder")


def _compare(where: Path, expected: set[str], found: set[str]) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing:
        also = f"; unexpected: {_some(unexpected)}" if unexpected else ""
        raise UserError(f"{where}: missing {_some(missing)}, which the configuration asks for{also}")
    if unexpected:
        raise UserError(f"{where}: unexpected {_some(unexpected)}, which the configuration has no place for")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    held = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
    # transformers refuses a file that does not say which framework it is from.
    _replace(path, lambda temporary: save_file(held, temporary, metadata={"format": "pt"}))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
