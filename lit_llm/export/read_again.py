"""An exported file read again as a model folder: what it says is measured, not what it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lit_llm.export.gguf_file import Model
from lit_llm.export.tensor_forms import FORMS, Array
from lit_llm.model_sources.gguf_folder import write_folder
from lit_llm.model_sources.gguf_header import TensorRecord, gguf_package, read_head
from lit_llm.model_sources.gguf_model import ARCHITECTURES, Tensor
from lit_llm.model_sources.gguf_tokenizer import tokenizer_files
from lit_llm.runtime.atomic_files import write_json, write_text

READ = (None, "linear", "yarn", "llama3")  # kinds of stretched positions that a GGUF file is read with


def read_again(folder: Path, file: Path, model: Model) -> None:
    """Writes ``folder`` of what ``file`` says, which was made of ``model``.

    Of an architecture that GGUF files are not read with, weights and tokenizer are the file's and config.json is the
    model's: what the file says of its shape is for llama.cpp to read.
    """
    scaling = model.config.rope_scaling
    if model.architecture in ARCHITECTURES and (None if scaling is None else scaling.kind) in READ:
        write_folder(folder, file, {})
        return
    head, data = read_head(file), np.memmap(file, np.uint8, "r")
    folder.mkdir(parents=True)
    for name, value in tokenizer_files(head).items():
        if isinstance(value, str):
            write_text(folder / name, value)
        else:
            write_json(folder / name, value, indent=2)
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float32", "torch_dtype": "float32"}, indent=2)
    weights: dict[str, torch.Tensor] = {}
    for ours, source in model.tensors.items():
        parts = FORMS[source.form].back(values(head.tensors[ours], data), model.config)
        weights |= {
            name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in zip(source.names, parts, strict=True)
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def values(record: TensorRecord, data: Array) -> Array:
    """A tensor of the file as float32, in llama.cpp's layout."""
    found = Tensor("", record).read(data)
    if gguf_package().GGMLQuantizationType(record.kind).name == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)
