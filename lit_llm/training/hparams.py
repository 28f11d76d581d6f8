"""TensorBoard's HPARAMS page: what tells a run from those beside it, not the hundred keys that are the same in all.

A run does not know its neighbours. What its command gave is what may differ from theirs: of a sweep the keys that it
sweeps, else every override (of a pipeline too: what was given to an earlier stage tells the later ones apart), and
the seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from lit_llm.config import yaml_files

UNTOLD = ("resume", "allowed_targets", "cache_dir")  # where and how, not what


def told_apart(folder: Path, seed: int) -> dict[str, bool | int | float | str]:
    """The values of the overrides of the run in ``folder``, by key, and its seed."""
    found = {one.key_or_group: _value(one) for one in _parsed(_words(folder))}
    swept = _swept()
    return {
        key: value
        for key, value in found.items()
        if key.rpartition(".")[2] not in UNTOLD and (not swept or key in swept)
    } | {"seed": seed}


def _words(folder: Path) -> list[str]:
    """The overrides as Hydra keeps them in the folder of a run; of a pipeline's stage those of the pipeline."""
    kept = folder / ".hydra" / "overrides.yaml"
    known: Any = yaml_files.load(kept, list) if kept.is_file() else None
    if known is None and HydraConfig.initialized():
        known = HydraConfig.get().overrides.task
    # Not resolved: a word may name a variable of the environment, whose value is written nowhere.
    words: Any = OmegaConf.to_container(known, resolve=False) if known is not None else []
    return [str(word) for word in words]


def _swept() -> set[str]:
    """The keys that a sweep gives several values; empty outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return set()
    typed = (word for word in sys.argv[1:] if not word.startswith("-"))
    searched = (HydraConfig.get().sweeper.get("params") or {}).keys()
    return {one.key_or_group for one in _parsed(typed) if one.is_sweep_override()} | set(searched)


def _parsed(words: Iterable[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for word in words:
        try:
            yield parser.parse_override(word)
        except HydraException:  # a word of another release: told when the run was composed
            continue


def _value(one: Override) -> bool | int | float | str:
    value: Any = None if one.is_delete() else one.value()
    return value if isinstance(value, bool | int | float | str) else "null" if value is None else str(value)
