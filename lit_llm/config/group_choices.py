"""Another option of a group than the experiment's takes none of the values that the experiment gave to its own option.

``stage=pretraining schedule=linear``: experiment/pretraining.yaml sets ``schedule.decay_ratio``, which ``linear`` has
not. Values that both options know (``warmup_ratio``) stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lit_llm.config.overrides import conf_folder

PARTS_OF_OTHERS = {"stage", "experiment", "data", "callbacks", "logger"}
"""Groups whose values an experiment chooses together, or that are collections to which it adds."""


def without_strangers(config_name: str, arguments: list[str]) -> list[str]:
    """The arguments with a deletion for every such value, unless the user sets it anyway."""
    given = dict(word.partition("=")[::2] for word in arguments if "=" in word and not word.startswith("-"))
    usual = {"pipeline": "pipeline/default"}.get(config_name)
    experiment = _read(conf_folder() / f"experiment/{given.get('experiment', usual)}.yaml")
    return [*arguments, *(f"~{key}" for key in _strangers(given, experiment) if key not in given)]


def _strangers(given: Mapping[str, str], experiment: Mapping[str, Any]) -> Iterator[str]:
    """Keys of ``experiment`` that belong to another option than the one given for their group."""
    for key, name in given.items():
        found = re.fullmatch(r"(?P<group>[a-z_]+)(@(?P<place>[\w.]+))?", key)
        option = conf_folder() / (found["group"] if found else "") / f"{name}.yaml"
        if found is None or found["group"] in PARTS_OF_OTHERS or not option.is_file():
            continue
        place = found["place"] or found["group"]
        values: Any = experiment
        for part in place.split("."):
            values = values.get(part) if isinstance(values, Mapping) else None
        known = _keys(option)
        yield from (f"{place}.{stranger}" for stranger in values or () if stranger not in known)


def _keys(option: Path) -> set[str]:
    """The keys of an option and of those that it is made of."""
    content = _read(option)
    bases = [base for base in content.get("defaults", ()) if isinstance(base, str) and base != "_self_"]
    return set(content) - {"defaults"} | {key for base in bases for key in _keys(option.with_name(f"{base}.yaml"))}


def _read(file: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file.is_file() else {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
