"""What is saved of a stage (``base.Stage``), and how it is made again from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.gathering import is_sharded
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.lora import merge_lora
from lit_llm.backbone.saved_adapters import save_adapter
from lit_llm.backbone.sharded_folder import save_sharded
from lit_llm.errors import UserError
from lit_llm.stages import checkpoint_contents


def save(stage: Any, folder: str | Path) -> None:
    """``Stage.save``."""
    if stage.lora_rank and not stage.lora_merge:
        save_adapter_folder(folder, stage.model, stage.tokenizer, stage.options.base_model or "")
        return
    stage.save_whole(folder)
    if stage.lora_rank:
        save_adapter(Path(folder).parent / "adapter", stage.model, stage.base_model)


def save_whole(stage: Any, folder: str | Path) -> None:
    """``Stage.save_whole``."""
    if is_sharded(stage.model):
        save_sharded(folder, stage.model, stage.tokenizer)
    else:
        save_model(folder, stage.exported(), stage.tokenizer)


def exported(stage: Any) -> Any:
    """``Stage.exported``."""
    if not stage.lora_rank:
        return stage.model
    merged = merge_lora(copy.deepcopy(stage.model))
    if not stage.lora_merge:
        merged.stored = None  # in memory, where nothing is rounded
    return merged


def from_checkpoint(kind: Any, path: str | Path, map_location: Any, live: Mapping[str, Any]) -> Any:
    """``Stage.load_from_checkpoint``."""
    checkpoint = checkpoint_contents.read(path, map_location)
    objects = dict(live)
    given = objects.get("model")
    if given is None:
        objects["model"] = checkpoint_contents.network_of(checkpoint, path)
    if objects.get("tokenizer") is None and not isinstance(given, str | Path):
        objects["tokenizer"] = checkpoint_contents.tokenizer_of(checkpoint)
    stage = kind(checkpoint_contents.options_of(checkpoint, kind.Options), **objects)
    stage.has_moved_on(start_known=given is not None)
    stage.on_load_checkpoint(checkpoint)
    stage.load_state_dict(checkpoint["state_dict"])
    return stage


def check_keys(missing: list[str], unexpected: list[str]) -> None:
    """Raises UserError where a checkpoint's weights are not those of the stage."""
    if missing or unexpected:
        raise UserError(
            f"the checkpoint is not of this stage and model: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
