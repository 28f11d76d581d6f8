"""The model folder of a sharded model, written without any process ever holding the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone import transformers_folder
from lit_llm.backbone.gathering import in_first_from, reshard
from lit_llm.backbone.huggingface import SavesTokenizer, as_stored, check_vocabulary, save_settings
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.lora import adapted
from lit_llm.backbone.models import LanguageModel, ScoreModel, StoredDtypes
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.backbone.weights import write_shards, write_tensors
from lit_llm.runtime.progress_bars import Bar
from lit_llm.runtime.shared_tensors import whole

SHARD_BYTES = 5 * 10**9  # of a file at most: what the first process holds of the model at a time


def save_sharded(
    folder: str | Path,
    model: LanguageModel | ScoreModel,
    tokenizer: SavesTokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """What ``huggingface.save_model`` writes, the weights in files of at most ``shard_bytes`` and their index.

    Every process calls it. Each tensor is gathered by itself, adapters are merged into theirs on the way, and the first
    process writes a file once it has what fills it. (A family that transformers computes is gathered whole in the first
    process: its own class writes the files.) Errors as ``save_model``, in every process.
    """
    if tokenizer is not None and hasattr(tokenizer, "vocab_size"):
        check_vocabulary(model.config, tokenizer.vocab_size)
    reshard(model)
    if not adapted(model):
        as_stored(model)
    elif _merged_is_beyond_float16(model):
        model.stored = StoredDtypes(torch.float32)
    folder, number = Path(folder), len(list(model.named_parameters()))

    def write(tensors: Iterator[tuple[str, Tensor]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_settings(folder, model, tokenizer, generation)
        if isinstance(model.config, TransformersConfig):
            write_tensors(folder / "model.safetensors", transformers_folder.weights_of(model, dict(tensors)))
            return
        with Bar(tensors, total=number, desc=f"write {folder.name}", unit=" tensors", leave=False) as shown:
            written = {file.name for file in write_shards(folder, shown, shard_bytes)}
        for stale in folder.glob("model*.safetensors*"):  # of a model with other files, which would be read first
            if stale.name not in written:
                stale.unlink()

    in_first_from(whole_tensors(model), write)


@torch.no_grad()
def whole_tensors(model: LanguageModel | ScoreModel) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the files by their names there, in the types in which they are stored, adapters merged: one at a
    time, whole in every process, and given to the host in the first. Every process goes through all of them."""
    layout, layers, first = layout_of(model.config), adapted(model), torch.distributed.get_rank() == 0
    parameters = {name: each for name, each in model.named_parameters() if ".lora_" not in name}
    for theirs, names in layout.parts_of(parameters).items():
        parts = []
        for name in names:
            place, _, kind = name.rpartition(".")
            if kind == "weight" and place in layers:
                own = layers[place].lora_A.weight.dtype
                parts.append(layers[place].whole_weight(torch.promote_types(own, torch.float32), whole).to(own))
            else:
                parts.append(whole(parameters[name]))
        tensor = layout.laid_out(theirs, parts, model.config)
        del parts
        if model.stored is not None:
            tensor = tensor.to(model.stored.of(theirs))
        yield theirs, tensor.cpu() if first else tensor
        del tensor  # before the next is gathered


def _merged_is_beyond_float16(model: LanguageModel | ScoreModel) -> bool:
    """As ``as_stored`` asks of weights that are there; merged ones are made for it, one at a time."""
    stored = model.stored
    if stored is None or torch.float16 not in (stored.main, *stored.tensors.values()):
        return False
    model.stored, limit = None, torch.finfo(torch.float16).max
    found = False
    for name, tensor in whole_tensors(model):  # to the end, as every process does
        found = found or bool(stored.of(name) == torch.float16 and tensor.abs().max() > limit)
    model.stored = stored
    return found
