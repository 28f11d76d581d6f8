"""Hydra composes the same and takes half the time: what it would read and make again and again is made once.

A command composes its configuration two or three times, a pipeline's of more than a hundred files.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import InputDefault
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

_read: dict[tuple[Any, ...], ConfigResult] = {}


def compose_faster() -> None:
    """From now on in this process."""
    Plugins.instance()  # registers the sources
    source: Any = SourcesRegistry.instance().resolve("pkg")
    if not getattr(source.load_config, "once", False):
        source.load_config = _once(source.load_config)
        defaults_list._create_interpolation_map = _where_needed(defaults_list._create_interpolation_map)


def _once(load: Any) -> Any:
    """A file of a package is read and parsed once, as long as it is the same on the disk."""

    @wraps(load)
    def load_config(self: Any, config_path: str) -> ConfigResult:
        place = resources.files(self.path).joinpath(self._normalize_file_name(config_path))
        if not isinstance(place, Path) or not place.is_file():  # in an archive, or not there
            result: ConfigResult = load(self, config_path)
            return result
        now = place.stat()
        key = (place, self.provider, now.st_mtime_ns, now.st_size, now.st_ino)
        if key not in _read:
            _read[key] = load(self, config_path)
        # Hydra takes the list of defaults out of what it is given.
        return replace(_read[key], config=copy.deepcopy(_read[key].config), header=dict(_read[key].header))

    load_config.once = True  # type: ignore[attr-defined]
    return load_config


def _where_needed(make: Any) -> Any:
    """All that was chosen so far is written down for a file whose list of defaults asks for it: a few of them do."""

    @wraps(make)
    def chosen(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        ours = (one for one in defaults if not one.is_self() and not one.is_override())
        if not any(one.is_interpolation() for one in ours):
            return OmegaConf.create()
        result: DictConfig = make(overrides, defaults, self_added)
        return result

    return chosen
