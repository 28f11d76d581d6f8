"""Adapters of a model as files in PEFT's layout, and read beside their base: written here or by PEFT."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_llm.backbone import gathering
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.linear import is_plain
from lit_llm.backbone.lora import adapted, linear_layers, put_adapters
from lit_llm.backbone.lora_files import PEFT_PREFIX, in_files, put_back
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.peft_settings import check_ranks, layers_in, scales
from lit_llm.backbone.peft_targets import Size, embedding_and_head, path_of, written
from lit_llm.backbone.weights import read_tensors, write_tensors
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import CONFIG, WEIGHTS
from lit_llm.runtime import shared_tensors
from lit_llm.runtime.atomic_files import write_json

log = logging.getLogger("lit_llm")


def lora_state_dict(model: LanguageModel | ScoreModel) -> dict[str, Tensor]:
    """What training changes, named as PEFT names it: the adapters, and a score model's head; and an embedding or a head
    that came with them. Every process of a sharded model calls it, and gets them whole."""
    tensors = in_files({name: shared_tensors.whole(tensor) for name, tensor in _adapters(model).items()}, model.config)
    if isinstance(model, ScoreModel):
        tensors[PEFT_PREFIX + "score.weight"] = shared_tensors.whole(model.score.weight)
    for name in model.came_whole:
        tensors[_in_files(name, model)] = shared_tensors.whole(model.get_parameter(f"{name}.weight"))
    return tensors


def _adapters(model: LanguageModel | ScoreModel) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}


def _in_files(name: str, model: LanguageModel | ScoreModel) -> str:
    return f"{PEFT_PREFIX}{path_of(name, model.config)}.weight"


def save_adapter(folder: str | Path, model: LanguageModel | ScoreModel, base: str | Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT does; ``base`` is the folder they belong to.
    Every process of a sharded model calls it; the first one writes. Raises UserError for adapters beside some layers,
    or of several ranks, in a family whose files hold several matrices as one."""
    layers = adapted(model)
    if not layers:
        raise ValueError("the model has no adapters to save")
    one = next(iter(layers.values()))
    score = isinstance(model, ScoreModel)
    sizes = {name: Size(layer.rank, layer.alpha) for name, layer in layers.items()}
    saved = [
        *(["score"] if score else []),
        *(path_of(name, model.config).rpartition(".")[2] for name in model.came_whole),
    ]
    settings: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if score else "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "lora_dropout": one.lora_dropout.p,
        "modules_to_save": saved or None,
        "bias": "none",
        "fan_in_fan_out": layout_of(model.config).transposed,
        "init_lora_weights": True,
        "use_rslora": one.rank_stabilized,
        "use_dora": one.lora_magnitude_vector is not None,
        **written(sizes, linear_layers(model), model.config, one.rank_stabilized),
        "inference_mode": True,
    }
    if settings["use_dora"] and settings["fan_in_fan_out"]:
        log.warning("%s: PEFT has no DoRA of %s's (in, out) matrices, and reads this wrongly; here, and merged, it is "
                    "right", folder, model.config.family)  # fmt: skip
    folder, tensors = Path(folder), lora_state_dict(model)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, settings, indent=2)
        write_tensors(folder / WEIGHTS, tensors)

    gathering.in_first(write) if gathering.is_sharded(model) else write()


@torch.no_grad()
def load_adapter(folder: str | Path, model: LanguageModel | ScoreModel) -> LanguageModel | ScoreModel:
    """Put the adapter of ``folder`` (written here or by PEFT) on its base ``model``, in place; returns the model. An
    embedding or a head that the folder holds whole takes the base's place.

    Raises UserError for a missing or damaged file, an adapter of another kind or for another model.
    """
    file, score = ConfigFile(Path(folder) / CONFIG), isinstance(model, ScoreModel)
    modules = [name for name in linear_layers(model) if is_plain(model.get_submodule(name))]  # type: ignore[arg-type]
    others = [name for name, each in model.named_modules() if _is_leaf(name, each) and name not in modules]
    layers, shared = layers_in(file, score, model.config, modules, others)
    whole = list(dict.fromkeys(embedding_and_head(file, model.config)))
    if score and "lm_head" in whole:
        raise file.refuse("modules_to_save", file.raw["modules_to_save"], "a reward model has no head of a vocabulary")
    path, weight = Path(folder) / WEIGHTS, model.backbone.embed_tokens.weight
    if not path.is_file():
        raise UserError(f"{path}: no such file; an adapter folder has {CONFIG} and {WEIGHTS}")
    check_ranks(file, path)  # before layers are made
    stabilized, decomposed = file.flag("use_rslora", False), file.flag("use_dora", False)
    put_adapters(model, layers, scales(file)[2], stabilized, decomposed)
    adapters = _adapters(model)
    wanted = in_files(adapters, model.config, shared)
    if isinstance(model, ScoreModel):
        wanted[PEFT_PREFIX + "score.weight"] = model.score.weight
    _apart(model, whole)
    own = {_in_files(name, model): model.get_parameter(f"{name}.weight") for name in whole}
    shapes = {key: tensor.shape for key, tensor in {**wanted, **own}.items()}
    read = read_tensors([path], shapes, weight.dtype, weight.device).tensors
    put_back(read, adapters, model.config, shared)
    if isinstance(model, ScoreModel):
        model.score.weight.copy_(read[PEFT_PREFIX + "score.weight"])
    for key, parameter in own.items():
        parameter.copy_(read[key])
    model.came_whole = tuple(whole)
    return model


def _is_leaf(name: str, module: nn.Module) -> bool:
    return name.startswith("backbone.") and not any(True for _ in module.children()) and ".lora_" not in name


def _apart(model: LanguageModel | ScoreModel, whole: Sequence[str]) -> None:
    """Where one of embedding and head comes with the adapter, they are no longer the same matrix: PEFT has copies."""
    if not whole or not isinstance(model, LanguageModel) or not model.config.tie_embeddings:
        return
    model.config = dataclasses.replace(model.config, tie_embeddings=False)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
