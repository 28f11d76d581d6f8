"""What a checkpoint keeps beside weights and options, so that a stage is made anew from it: plain values alone, which
``torch.load(weights_only=True)`` reads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Engine

from lit_llm.backbone.config import BackboneConfig, RopeScaling
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.transformers_config import SWITCH, TransformersConfig
from lit_llm.checkpointing import atomic
from lit_llm.errors import UserError
from lit_llm.stages.options import StageOptions
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import Tokenizer

KEY = "components"
NO_REFERENCE = (
    "the reference is in no checkpoint: to learn on, or to measure against it, give load_from_checkpoint(PATH, model=) "
    "the network or the folder that training started from"
)


def contents(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The network's shape and the tokenizer, as far as they are this package's: others are given again on loading.

    No place is kept: the environment may have told it, and what it says is written nowhere.
    """
    config = getattr(model, "config", None)
    found: dict[str, Any] = {}
    if isinstance(config, BackboneConfig):
        found["backbone"] = dataclasses.asdict(config)
    if isinstance(config, TransformersConfig):
        found["transformers"] = dataclasses.asdict(config)
        del found["transformers"]["code"]  # a place, and of what is run: a checkpoint is somebody's file
    if isinstance(tokenizer, Tokenizer):
        found["tokenizer"] = {
            "engine": tokenizer.engine.to_str(),
            "config": tokenizer.config,
            "chat": tokenizer.chat.source,
            "stop_ids": list(tokenizer.stop_ids),
        }
    return found


def read(path: str | Path, map_location: Any) -> dict[str, Any]:
    """A checkpoint. Raises UserError where the file is none of weights and plain values."""
    if Path(path).is_dir():  # of many processes
        return atomic.load(Path(path), map_location)
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        first = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: cannot be read as a checkpoint of weights and plain values ({first})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path}: holds no state_dict; give a checkpoint that a Trainer wrote")
    return content


def network_of(checkpoint: Mapping[str, Any], path: str | Path) -> LanguageModel:
    """A network of the shape that was trained, its weights random. Raises UserError where the shape is not kept, or
    Python code beside the model makes it."""
    if (theirs := checkpoint.get(KEY, {}).get("transformers")) is not None:
        return LanguageModel(_without_foreign_code(theirs, path))
    values = checkpoint.get(KEY, {}).get("backbone")
    if values is None:
        raise UserError(
            f"{path}: does not say what network it is of; give model= (the network or the folder that training started "
            "from) and tokenizer="
        )
    values = dict(values)
    for name in ("rope_scaling", "window_rope_scaling"):  # the second is in newer checkpoints alone
        if (scaling := values.get(name)) is not None:
            values[name] = RopeScaling(**scaling)
    return LanguageModel(BackboneConfig(**values))


def _without_foreign_code(values: Mapping[str, Any], path: str | Path) -> TransformersConfig:
    """Older checkpoints say where the code lies, which is run with the switch alone."""
    config = TransformersConfig(**values)
    if config.code is None and not config.raw.get("auto_map"):
        return config
    if config.code is not None and os.environ.get(SWITCH) == "1":
        return config
    raise UserError(
        f"{path}: its network is made by Python code of a model folder (auto_map), which is not run; give "
        f"model=FOLDER, what training started from, with {SWITCH}=1 where you trust its code"
    )


def tokenizer_of(checkpoint: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer; None where none is kept."""
    values = checkpoint.get(KEY, {}).get("tokenizer")
    if values is None:
        return None
    engine = Engine.from_str(values["engine"])
    return Tokenizer(engine, values["config"], ChatTemplate(values["chat"]), values["stop_ids"])


def options_of(checkpoint: Mapping[str, Any], kind: type[StageOptions]) -> StageOptions:
    """The options of a stage, from the hyper-parameters; what a newer version has more keeps its default."""
    names = {field.name for field in dataclasses.fields(kind)}
    given = checkpoint.get("hyper_parameters", {})
    return kind(**{name: value for name, value in given.items() if name in names})
