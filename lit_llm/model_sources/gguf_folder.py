"""A GGUF file written as a model folder in Hugging Face's layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lit_llm.model_sources.gguf_header import GGUFHead, read_head
from lit_llm.model_sources.gguf_model import Tensor, model_of
from lit_llm.model_sources.gguf_tokenizer import tokenizer_files
from lit_llm.model_sources.hub import SOURCE
from lit_llm.runtime.atomic_files import folder_beside, write_json, write_text
from lit_llm.runtime.progress_bars import Bar

log = logging.getLogger("lit_llm")

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def write_folder(folder: Path, file: Path, source: Mapping[str, str]) -> None:
    """Read a GGUF file into a new model folder, which is there whole or not at all. Errors as ``folder_of``."""
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
    log.info("%s: read once into %s", file, folder)
    with folder_beside(folder) as unfinished:
        for name, value in {"config.json": config, **files}.items():
            if isinstance(value, str):
                write_text(unfinished / name, value)
            else:
                write_json(unfinished / name, value, indent=2)
        with (unfinished / "model.safetensors").open("xb") as stream:
            _write_weights(stream, head, tensors, data)
        write_json(unfinished / SOURCE, {**source, **_about(head, file)})


def _about(head: GGUFHead, file: Path) -> dict[str, str]:
    licence = head.value("general.license", str)
    return {"name": file.stem, **({"license": licence} if licence else {})}


def _count(tensor: Tensor) -> int:
    return int(np.prod(tensor.record.shape, dtype=object))


def _write_weights(stream: IO[bytes], head: GGUFHead, tensors: list[Tensor], data: Any) -> None:
    """A safetensors file, one tensor in memory at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        size = _count(tensor) * _BYTES[tensor.dtype]
        entry: Any = {"dtype": tensor.dtype, "shape": list(tensor.record.shape), "data_offsets": [at, at + size]}
        header[tensor.name], at = entry, at + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    with Bar(total=at, desc=head.path.name, unit="B", unit_scale=True, leave=False) as bar:
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
