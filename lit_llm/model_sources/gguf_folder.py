"""A GGUF file written as a model folder in Hugging Face's layout."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lit_llm.model_sources.gguf_header import GGUFHead, read_head
from lit_llm.model_sources.gguf_model import model_of
from lit_llm.model_sources.gguf_tensors import Tensor, type_of
from lit_llm.model_sources.gguf_tokenizer import tokenizer_files
from lit_llm.model_sources.hub import SOURCE
from lit_llm.runtime.atomic_files import folder_beside, write_json, write_text
from lit_llm.runtime.progress_bars import Bar
from lit_llm.runtime.terminal import started

log = logging.getLogger("lit_llm")

_BESIDE = 10**7  # bytes of the tokenizer, config.json and what is written beside the weights
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def write_folder(folder: Path, file: Path, source: Mapping[str, str]) -> None:
    """Read a GGUF file into a new model folder, which is there whole or not at all. Errors as ``folder_of``.

    A bar shows the bytes of the weights; it is there from the start, as the head with its tokens takes seconds too.
    """
    with Bar(total=1, desc=f"read {file.name}", unit="B", unit_scale=True, leave=False) as bar:
        _write_folder(folder, file, source, bar)


def _write_folder(folder: Path, file: Path, source: Mapping[str, str], bar: Bar) -> None:
    head = read_head(file)
    data = np.memmap(file, np.uint8, "r")
    config, tensors = model_of(head, data)
    files = tokenizer_files(head)
    tokens = head.items("tokenizer.ggml.tokens", str) or []
    if len(tokens) > config["vocab_size"]:
        head.refuse(f"has {len(tokens)} tokens, but its embedding {config['vocab_size']} rows; fetch it again")
    sizes = {kind: sum(_count(t) for t in tensors if t.dtype == kind) for kind in {t.dtype for t in tensors}}
    kept = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}[
        max(sizes, key=lambda k: sizes[k])
    ]
    config |= {"dtype": kept, "torch_dtype": kept}
    ends = files["generation_config.json"]
    config |= {key: value[0] if isinstance(value, list) else value for key, value in ends.items()}
    needed = sum(_count(t) * _BYTES[t.dtype] for t in tensors)
    _check_room(head, folder, needed)
    quantized = any(type_of(t.record) not in _BYTES for t in tensors)
    wider = ", its quantised weights as float32" if quantized else ""
    line = f"{file} ({_size(file.stat().st_size)}): read once into {folder} ({_size(needed)}{wider})"
    with bar.aside():
        log.info("%s", line)
        if not log.isEnabledFor(logging.INFO):  # while a command is checked, what is logged goes nowhere yet
            started(line)
    bar.total = needed
    with folder_beside(folder) as unfinished:
        for name, value in {"config.json": config, **files}.items():
            if isinstance(value, str):
                write_text(unfinished / name, value)
            else:
                write_json(unfinished / name, value, indent=2)
        with (unfinished / "model.safetensors").open("xb") as stream:
            _write_weights(stream, head, tensors, data, bar)
        write_json(unfinished / SOURCE, {**source, **_about(head, file)})


def _check_room(head: GGUFHead, folder: Path, needed: int) -> None:
    """Raises UserError where the disk of ``folder`` cannot hold weights of so many bytes."""
    place = next(one for one in folder.absolute().parents if one.is_dir())
    free = shutil.disk_usage(place).free
    if needed + _BESIDE > free:
        head.refuse(
            f"takes {_size(needed)} as a model folder, its quantised weights as float32, and {_size(free)} are free on "
            f"the disk of {folder.parent}; free some space"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _about(head: GGUFHead, file: Path) -> dict[str, str]:
    licence = head.value("general.license", str)
    return {"name": file.stem, **({"license": licence} if licence else {})}


def _count(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=object))


def _write_weights(stream: IO[bytes], head: GGUFHead, tensors: list[Tensor], data: Any, bar: Bar) -> None:
    """A safetensors file, one tensor in memory at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        size = _count(tensor) * _BYTES[tensor.dtype]
        entry: Any = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        header[tensor.name], at = entry, at + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for part in _parts(tensor, head, data):
            stream.write(part)
            bar.update(len(part))


def _parts(tensor: Tensor, head: GGUFHead, data: Any) -> Iterator[memoryview]:
    found = tensor.read(data)
    bits = found.astype(np.uint32) << 16 if tensor.dtype == "BF16" else None
    numbers = found if bits is None else bits.view(np.float32)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        head.refuse(f"{tensor.record.name} has {bad} NaN or infinite of {found.size} weights; fetch it again")
    yield np.ascontiguousarray(found).reshape(-1).view(np.uint8).data
