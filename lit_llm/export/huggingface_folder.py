"""A model folder for other readers of Hugging Face's layout: shards, and the chat template where each looks for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lit_llm.backbone.huggingface import head_in
from lit_llm.backbone.weights import names_in, weight_files, write_shards
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import folder_beside, write_json, write_text
from lit_llm.runtime.model_folder import check_model_folder, check_recorded
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

_COPIED = ("config.json", "generation_config.json")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def write_huggingface(output: Path, folder: Path, max_shard_size: str) -> list[Path]:
    """Writes ``folder`` again as ``output``: weights as they are, in files of at most ``max_shard_size``.

    The new folder is there whole or not at all.

    Returns the weights' files and their index; raises UserError for a folder that is no model's and for a wrong size.
    """
    limit = shard_bytes(max_shard_size)
    check_model_folder(folder, "model")
    head_in(folder)
    tokenizer, files = load_tokenizer(folder), weight_files(folder)
    check_recorded(folder, [file.name for file in files])
    if output.is_dir():
        output.rmdir()  # it is empty
    with folder_beside(output) as unfinished:
        written = _write(unfinished, folder, tokenizer, files, limit)
    return [output / file.name for file in written]


def _write(output: Path, folder: Path, tokenizer: Tokenizer, files: list[Path], limit: int) -> list[Path]:
    for name in _COPIED:
        if (folder / name).is_file():
            write_text(output / name, (folder / name).read_text(encoding="utf-8"))
    tokenizer.save(output)
    for code in sorted(folder.glob("*.py")):  # of a model that is computed by code of its own
        write_text(output / code.name, code.read_text(encoding="utf-8"))
    if (folder / "README.md").is_file():
        write_text(output / "README.md", (folder / "README.md").read_text(encoding="utf-8", errors="replace"))
    if (folder / "lineage.json").is_file():  # of the folder that this is a copy of: its hashes are not this one's
        source = json.loads((folder / "lineage.json").read_text(encoding="utf-8"))
        write_json(output / "source.json", {"name": folder.name, "source": str(folder), "sha256": source.get("digest")})
    return write_shards(output, _tensors(files), limit)


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for name, path in names_in(files).items():
        with safe_open(path, framework="pt") as file:
            yield name, file.get_tensor(name)


def shard_bytes(text: str) -> int:
    """Bytes of ``2GB``, ``500MB``. Raises UserError for another text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)", text.strip().upper())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"max_shard_size={text}: write a number and KB, MB or GB, as 2GB")
    return int(float(found[1]) * _UNITS[found[2]])
