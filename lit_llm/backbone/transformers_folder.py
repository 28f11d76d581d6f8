"""A model folder of any causal model of transformers: read through its own classes, and written as them again."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.families import Head, read_config
from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.models import LanguageModel, ScoreModel, Shape, StoredDtypes
from lit_llm.backbone.transformers_config import (
    TransformersConfig,
    made,
    or_by_transformers,
    quiet,
    read_shape,
    told_by_file,
)
from lit_llm.backbone.transformers_probe import examine
from lit_llm.backbone.weights import INDEX, SINGLE, dtypes_in, names_in, weight_files
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import config_file
from lit_llm.runtime.model_folder import checked_meanwhile

log = logging.getLogger("lit_llm")

Library = Literal["auto", "own", "transformers"]
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MARK = "computed_by"  # in a config.json that was written here
_SCORE = "ForSequenceClassification"
_told: set[Path] = set()


def is_of_transformers(path: Path, library: Library = "auto") -> bool:
    """Whether the model of a config.json is computed by transformers: as ``library`` says; auto: where no family here
    has its architecture or its model_type and transformers is there, which a line says once."""
    if library != "auto" or not path.is_file():
        return library == "transformers"
    raw = ConfigFile(path).raw
    named, kind = raw.get("architectures"), raw.get("model_type")
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    kinds = {row.model_type or family for family, row in FAMILIES.items()}
    ours = {each for row in FAMILIES.values() for each in (row.language, row.score)}
    if name is None or name in ours or kind in kinds or importlib.util.find_spec("transformers") is None:
        return False
    _tell(path, str(name))
    return True


def library_for(folder: Path, library: Library = "auto") -> Library:
    """Whose code computes the model in ``folder``, as ``library`` says; auto: transformers too for a model of a family
    here that was trained with backbone=transformers and that no reader here takes, which a line says once."""
    own, path = folder / "config.json", config_file(folder)
    if library != "auto" or not own.is_file() or ConfigFile(own).raw.get(_MARK) != "transformers":
        return library
    try:
        if not is_of_transformers(path):
            read_config(path)
    except UserError:
        _tell(path, str((ConfigFile(path).raw.get("architectures") or [None])[0]))
        return "transformers"
    return library


def _tell(path: Path, name: str) -> None:
    if path.resolve() not in _told:
        _told.add(path.resolve())
        log.info("%s: %s is computed by transformers, more slowly than families of this project's own", path, name)


def config_in(path: Path, trust_remote_code: bool = False) -> tuple[TransformersConfig, Head]:
    """The shape of the model that a config.json is of, and its head. Raises UserError."""
    named = ConfigFile(path).raw.get("architectures") or []
    _compare_layers(path)
    score = isinstance(named, list) and any(str(name).endswith(_SCORE) for name in named)
    return read_shape(path, trust_remote_code), "score" if score else "language"


def read_shape_by(
    path: Path, library: Library = "auto", trust_remote_code: bool = False
) -> tuple[Shape, Head, dict[str, Any]]:
    """The shape, the head and the settings of a config.json, by the reader that ``library`` says. Raises UserError."""
    if is_of_transformers(path, library):
        shape, head = config_in(path, trust_remote_code)
        return shape, head, shape.raw
    try:
        return read_config(path)
    except UserError as error:
        raise (or_by_transformers(error) if library == "own" else error) from None


def _compare_layers(path: Path) -> None:
    """Refuses more layers than the weights beside ``path`` are named for, before so many are built."""
    raw = ConfigFile(path).raw
    key = next((key for key in _LAYERS if type(raw.get(key)) is int), None)
    if key is None or (not (path.parent / SINGLE).is_file() and not (path.parent / INDEX).is_file()):
        return  # whoever reads weights says that there are none
    names = names_in(weight_files(path.parent))
    found = {next((part for part in name.split(".") if part.isdecimal()), None) for name in names} - {None}
    if found and raw[key] > len(found):
        raise UserError(f"{path}: {key}={raw[key]}, but the weights are of {len(found)} layers")


def read(
    folder: Path,
    head: Head,
    config: TransformersConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    dropout: float,
) -> LanguageModel | ScoreModel:
    """The model in ``folder``, whose config.json says ``config`` and ``head``; without a reward's normalisation.

    Raises UserError for pickled, missing or damaged weights, for NaN, and for what cannot be trained (see
    ``transformers_probe.examine``).
    """
    path = folder / "config.json"
    config = dataclasses.replace(config, dropout=dropout)
    files = weight_files(folder)
    stored = dtypes_in(files)  # before anything else reads them: what is damaged is told by name
    with checked_meanwhile(folder, ["config.json", *(file.name for file in files)]), told_by_file(path):
        whole = _read(folder, head, config)
        with torch.device("meta"):
            model = LanguageModel(config) if head == "language" else ScoreModel(config)
        model.backbone.network = whole.base_model
        examine(whole, model.backbone)
    if isinstance(model, LanguageModel):
        model.lm_head = whole.get_output_embeddings()
        model.tie_weights()
    else:
        model.score = nn.Linear(config.hidden_size, 1, bias=False, device="meta")
        model.score.weight = nn.Parameter(whole.score.weight.detach())
        model.reward_mean, model.reward_std = torch.zeros(()), torch.ones(())
    model = model.to(device, dtype).train().requires_grad_(True)
    model.stored = StoredDtypes(_main(config.raw, stored), stored)
    return model


def _read(folder: Path, head: Head, config: TransformersConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForCausalLM if head == "language" else AutoModelForSequenceClassification
    theirs = config.theirs()
    theirs.num_labels = 1
    whole, found = kind.from_pretrained(
        folder,
        config=theirs,
        dtype=torch.float32,
        trust_remote_code=config.code is not None,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below
    )
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: missing {_some(missing)}, which the configuration asks for")
    if mismatched := sorted(found["mismatched_keys"]):
        name, have, want = mismatched[0]
        raise UserError(f"{folder}: {name} has shape {list(have)}, the configuration asks for {list(want)}")
    if unexpected := sorted(found["unexpected_keys"]):
        log.warning("%s: %s: nothing in the model reads it, and it is not written again", folder, _some(unexpected))
    for name, weight in whole.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"{folder}: {name} has NaN or infinite weights; use an earlier folder")
    return whole


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _main(raw: Mapping[str, Any], stored: Mapping[str, torch.dtype]) -> torch.dtype:
    named = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")).removeprefix("torch."), None)
    return named if isinstance(named, torch.dtype) else Counter(stored.values()).most_common(1)[0][0]


def weights_of(model: LanguageModel | ScoreModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the family's own class writes them into its files.

    ``tensors``: the parameters by their names in that class, in the types to be written. Raises UserError where
    transformers has no class for a reward model of the family.
    """
    from safetensors.torch import load_file

    config = model.config
    assert isinstance(config, TransformersConfig)
    with torch.device("meta"):
        whole = made(config, "language" if isinstance(model, LanguageModel) else "score")
    buffers = {
        f"{config.prefix}.{name}": value
        for name, value in model.backbone.network.state_dict().items()
        if f"{config.prefix}.{name}" not in tensors
    }
    state = {**buffers, **{name: tensor.detach() for name, tensor in tensors.items()}}
    missing = whole.load_state_dict(state, strict=False, assign=True).missing_keys
    whole.tie_weights()
    left = [name for name in missing if whole.get_parameter_or_buffer(name).is_meta]
    if left:
        raise RuntimeError(f"{config.family}: nothing to write as {left[:3]}")
    with tempfile.TemporaryDirectory() as place, quiet():
        # transformers knows how its files differ from its modules (experts, renamed layers).
        whole.save_pretrained(place, max_shard_size="100TB")
        return load_file(Path(place) / "model.safetensors")


def config_json(config: TransformersConfig, head: Head) -> dict[str, Any]:
    """The settings of a config.json, as its family's class says them, without token ids and dtype."""
    with torch.device("meta"):
        whole = made(config, head)
    settings = {**config.raw, "vocab_size": config.vocab_size, "architectures": [type(whole).__name__]}
    settings[_MARK] = "transformers"
    if head == "score":
        settings |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    return settings


def copy_code(config: TransformersConfig, folder: Path) -> None:
    """A model of Python files of its own takes them along."""
    if config.code is not None and Path(config.code) != folder.resolve():
        for file in Path(config.code).glob("*.py"):
            shutil.copyfile(file, folder / file.name)
