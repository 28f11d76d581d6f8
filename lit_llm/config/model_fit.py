"""What a run asks of its model and its config.json already tells: looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_llm.backbone import tensor_shapes
from lit_llm.backbone.config import LINEAR_LAYERS, BackboneConfig, from_depth
from lit_llm.backbone.families import read_config
from lit_llm.backbone.options import DepthOptions, TransformersOptions
from lit_llm.backbone.transformers_config import or_by_transformers
from lit_llm.config.environment import real
from lit_llm.config.pipeline_steps import runs
from lit_llm.config.pretrained_model import folder_named, known
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import base_here
from lit_llm.runtime.model_folder import is_adapter
from lit_llm.runtime.suggestions import nearest


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each, of the plain form of a run's or a pipeline's configuration. A model that is not there is told
    elsewhere."""
    for prefix, run in runs(values, skipped=False):
        stage, data, backbone = (run[key] if isinstance(run[key], Mapping) else {} for key in _PARTS)
        if backbone.get("_target_") == TransformersOptions.TARGET:
            continue  # what transformers makes of a config.json is not known here
        place = folder_named(run["init_from"])
        yield from _targets(prefix, stage)
        yield from _family(place)
        yield from _cut(prefix, run, values)
        context = backbone.get("max_positions") if run["init_from"] is None else None
        if place is not None and (model := known(place)) is not None:
            context = model.context
        longest = data.get("max_length")
        if isinstance(context, int) and isinstance(longest, int) and longest > context:
            yield f"{prefix}data.max_length={longest}: the model's context is {context} (backbone.max_positions)"


_PARTS = ("stage", "data", "backbone")


def _targets(prefix: str, stage: Mapping[str, Any]) -> Iterator[str]:
    given = stage.get("lora_targets")
    unknown = [one for one in given if one not in LINEAR_LAYERS] if isinstance(given, list) else []
    if stage.get("lora_rank") and unknown:
        near = f"; did you mean {found}?" if (found := nearest(str(unknown[0]), LINEAR_LAYERS)) else ""
        names = ", ".join(LINEAR_LAYERS)
        yield f"{prefix}stage.lora_targets: {unknown} not in the model; use some of {names}{near}"


def _cut(prefix: str, run: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Of a model that the processes of a tensor-parallel group cannot share out."""
    peers = run["trainer"]["tensor_parallel"]
    if not isinstance(peers, int) or peers < 2:
        return
    config = _shape(run, values)
    for line in tensor_shapes.faults(config, peers) if config is not None else ():
        yield f"{prefix}trainer.tensor_parallel={peers}: {line}"


def _shape(run: Mapping[str, Any], values: Mapping[str, Any]) -> BackboneConfig | None:
    """Of the model of a run, which a pipeline's may have from another; None where it is not known yet."""
    for _ in range(len(values.get("stages", ())) + 1):
        place = str(run["init_from"] or "")
        if not place.startswith("@"):
            break
        run = values.get("stages", {}).get(place[1:].split("/")[0], {"init_from": "@"})
    backbone = run.get("backbone")
    try:
        if run["init_from"] is not None:
            found = folder_named(run["init_from"])
            if found is None:
                return None
            folder = real(found)
            base = (base_here(folder) if is_adapter(folder) else None) or folder
            return read_config(base / "config.json")[0]
        if isinstance(backbone, Mapping) and backbone.get("_target_") == DepthOptions.TARGET:
            given = {key: value for key, value in backbone.items() if not key.startswith("_")}
            return from_depth(**given | {"vocab_size": given.get("vocab_size") or 1, "rope_scaling": None})
    except (UserError, TypeError):  # what loads it, or checks its keys, tells why
        pass
    return None


def _family(place: Path | None) -> Iterator[str]:
    """Of a model that no family here is, without ``backbone=transformers``."""
    if place is None:
        return
    folder = real(place)
    try:
        base = (base_here(folder) if is_adapter(folder) else None) or folder
        if (base / "config.json").is_file():
            read_config(base / "config.json")
    except UserError as error:
        if "is not supported" in str(error):
            yield str(or_by_transformers(error))
