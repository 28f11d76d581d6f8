"""A model folder as far as it can be known before torch is imported: its weights, its context, whose it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.families import read_config
from lit_llm.backbone.transformers_config import CONTEXT, CONTEXTS
from lit_llm.config.environment import real
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import base_here
from lit_llm.runtime.model_folder import is_adapter

KEY = "pretrained_defaults"  # in a configuration; a mapping there is what a run took, so its model is another's
SMALL = 50_000_000  # weights; what is made here from random weights and is smaller keeps the values in conf/


@dataclass(frozen=True)
class Model:
    """What can be known of a model folder before torch is there."""

    weights: int
    context: int  # positions
    ours: bool  # made here from random weights, as all that it was made from

    @property
    def keeps_conf(self) -> bool:
        return self.ours and self.weights < SMALL


def known(place: Path | None) -> Model | None:
    """None where no model can be read: whatever loads it says what is wrong."""
    if place is None:
        return None
    folder = real(place)
    try:
        base = (base_here(folder) if is_adapter(folder) else None) or folder  # an adapter's weights are its base's
    except UserError:
        return None
    own = folder / "config.json"
    file, ours = own if own.is_file() else base / "config.json", from_random_weights_here(place)
    try:
        config, head, _ = read_config(base / "config.json")
        context = read_config(file)[0].max_positions
    except UserError:
        weights, context = _weights_in(base), _context_in(file)
        return Model(weights, context, ours) if weights and context else None
    return Model(config.num_parameters if head == "language" else config.backbone_parameters, context, ours)


def _weights_in(folder: Path) -> int:
    """Of a model that transformers computes, as the headers of its files count them; 0 where one is damaged."""
    weights = 0
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            weights += sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
            return 0
    return weights


def _context_in(file: Path) -> int:
    """0 where the file cannot be read."""
    try:
        raw = ConfigFile(file).raw
    except UserError:
        return 0
    return next((raw[key] for key in CONTEXTS if type(raw.get(key)) is int), CONTEXT)


def from_random_weights_here(place: Path) -> bool:
    """Whether a folder's lineage leads back to a model that was pretrained here.

    A parent that lies no longer where the lineage says had a lineage itself, and was made here.
    """
    for _ in range(100):  # a lineage that names itself ends too
        lineage = _lineage(real(place))
        if lineage is None or isinstance(lineage["config"].get(KEY), Mapping):
            return False
        if lineage["config"].get("init_from") is None:
            return True
        parents = {one.get("role"): one for one in lineage["parents"]}
        parent = parents.get("init_from", {"path": str(lineage["config"]["init_from"]), "digest": "unknown"})
        if parent.get("digest") is None:
            return False
        place = place / str(parent.get("path"))
        if not (real(place) / "lineage.json").is_file():
            return True
    return False


def _lineage(place: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((place / "lineage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(found, dict) and isinstance(found.get("config"), dict) and isinstance(found.get("parents"), list)
    return found if good else None


def folder_named(text: Any) -> Path | None:
    return Path(str(text)).expanduser() if text and not str(text).startswith("@") else None
