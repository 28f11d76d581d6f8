"""A network of a model folder without its weights, which are read when it is spread over processes: each keeps its part
of one tensor after the other, so that none ever holds more than its parts and one tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.huggingface import KINDS, outlined, stored_dtypes
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.transformers_folder import read_shape_by
from lit_llm.backbone.weights import Found, dtypes_in, each_tensor, weight_files
from lit_llm.errors import UserError
from lit_llm.model_sources.folders import folder_of
from lit_llm.runtime.model_folder import check_model_folder, checked_meanwhile, is_adapter
from lit_llm.runtime.shared_tensors import fill


def can_be_deferred(folder: str | Path) -> bool:
    """Whether a folder holds whole weights; those of an adapter are read at once, with its base."""
    folder = folder_of(folder)
    check_model_folder(folder)
    return not is_adapter(folder)


def load_outline(folder: str | Path, dropout: float = 0.0) -> LanguageModel:
    """The language model in ``folder``, of this package's families, with its weights on "meta"; ``read_weights`` gives
    them memory. Errors as ``load_model``, as far as headers tell."""
    folder = folder_of(folder)
    path = folder / "config.json"
    config, found, raw = read_shape_by(path, "own", False)
    if found != "language" or not isinstance(config, BackboneConfig):
        raise UserError(f"{path}: holds {KINDS[found]} ({raw['architectures'][0]}), {KINDS['language']} is wanted")
    files = weight_files(folder)
    model, kept = outlined(dataclasses.replace(config, dropout=dropout), found, files, path)
    assert isinstance(model, LanguageModel)
    dtypes = {kept.renamed.get(name, name): dtype for name, dtype in dtypes_in(files).items()}
    sizes = {name: torch.empty(shape, device="meta") for name, shape in kept.shapes.items()}
    model.stored = stored_dtypes(raw, Found(sizes, {name: dtypes[name] for name in sizes if name in dtypes}))
    model.folder = folder
    return model


def on_meta(model: nn.Module) -> set[str]:
    """The names of the parameters that have no memory yet."""
    return {name for name, parameter in model.named_parameters() if parameter.is_meta}


@torch.no_grad()
def read_weights(model: nn.Module, folder: Path, names: Iterable[str]) -> None:
    """Reads the parameters ``names`` of a network, which have memory and may be shared out, from the folder of the
    language model that it was made from.

    Raises UserError as ``load_model``: for a damaged file, a number that is not finite, another shape.
    """
    path, wanted = folder / "config.json", set(names)
    config, found, _ = read_shape_by(path, "own", False)
    assert isinstance(config, BackboneConfig)
    files, parameters = weight_files(folder), dict(model.named_parameters())
    with checked_meanwhile(folder, ["config.json", *(file.name for file in files)]):
        outline, kept = outlined(config, found, files, path)
        layout = layout_of(outline.config)
        ours: dict[str, dict[str, torch.Size]] = {}
        for name, parameter in outline.named_parameters():
            ours.setdefault(layout.their_name(name), {})[name] = parameter.shape
        for theirs, tensor in each_tensor(files, kept.shapes, kept.ignored, kept.renamed):
            for name, whole in layout.from_files({theirs: tensor}, ours[theirs], outline.config).items():
                if name in wanted:
                    fill(parameters[name], whole)
                    wanted.remove(name)
    if wanted:
        raise UserError(f"{folder}: holds no {min(wanted)}, which the network has")

