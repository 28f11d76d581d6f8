"""Hydra composes the same and takes a third of the time: what it would read and make again and again is made once, and
what OmegaConf does to every value after every merge is done in few words.

A command composes its configuration two or three times, a pipeline's of more than a hundred files.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, wraps
from importlib import resources
from pathlib import Path
from typing import Any

import omegaconf.base
from hydra import version
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import InputDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf, grammar_parser
from omegaconf.base import Box, Metadata, Node

_read: dict[tuple[Any, ...], ConfigResult] = {}
_chosen: list[tuple[Any, IConfigRepository, DefaultsList]] = []  # of the composition before, until somebody asks


def compose_faster() -> None:
    """From now on in this process."""
    Plugins.instance()  # registers the sources
    if getattr(ConfigRepository.load_config, "once", False):
        return
    ConfigRepository.load_config = _once(ConfigRepository.load_config)  # type: ignore[method-assign]
    CachingConfigRepository.__init__ = _of_sources  # type: ignore[method-assign]
    ConfigLoaderImpl._embed_result_config = staticmethod(_own(ConfigLoaderImpl._embed_result_config))  # type: ignore[method-assign]
    config_loader_impl.create_defaults_list = _remembered(defaults_list.create_defaults_list)  # type: ignore[attr-defined]
    defaults_list._create_interpolation_map = _where_needed(defaults_list._create_interpolation_map)
    version._get_version = lru_cache(version._get_version)  # of two texts, 500 times
    Box._re_parent = _re_parent  # type: ignore[method-assign]
    Metadata.__deepcopy__ = _copied  # type: ignore[attr-defined]
    parse = lru_cache(4096)(grammar_parser.parse)  # of an interpolation, whose tree is only read
    omegaconf.base.parse = omegaconf._utils.parse = parse  # type: ignore[attr-defined]


def _once(load: Any) -> Any:
    """A file of a package is read and parsed once, as long as it is the same on the disk. What is given is the same for
    all: ``_own`` copies what is composed of it, and Hydra copies the list of defaults itself."""

    @wraps(load)
    def load_config(self: Any, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path=config_path, object_type=ObjectType.CONFIG)
        place = None
        if source is not None and source.scheme() == "pkg":
            place = resources.files(source.path).joinpath(source._normalize_file_name(config_path))
        if not isinstance(place, Path) or not place.is_file():  # elsewhere, in an archive, or not there
            result: ConfigResult | None = load(self, config_path)
            return result
        now = place.stat()
        key = (place, source.provider, now.st_mtime_ns, now.st_size, now.st_ino)
        if key not in _read:
            _read[key] = load(self, config_path)
        return replace(_read[key], header=dict(_read[key].header))

    load_config.once = True  # type: ignore[attr-defined]
    return load_config


def _own(embed: Any) -> Any:
    """What is merged into a composition, which goes on changing it, is no file's. Hydra copies only what it puts below
    a package."""

    @wraps(embed)
    def embedded(ret: ConfigResult, package_override: str | None) -> ConfigResult:
        found: ConfigResult = embed(ret, package_override)
        return replace(found, config=copy.deepcopy(found.config)) if found.config is ret.config else found

    return embedded


def _of_sources(self: CachingConfigRepository, delegate: Any) -> None:
    """The files of another repository, and what was read of them. Where it is told of other sources it makes itself a
    new list of them: a copy of all that they hold is not needed."""
    self.delegate, self.cache = copy.copy(delegate), {}


def _remembered(create: Any) -> Any:
    """Which files are chosen is kept until somebody asks (``files_chosen``), or the next composition."""

    @wraps(create)
    def created(
        repo: Any, config_name: str | None, overrides_list: list[Override], prepend_hydra: bool, skip_missing: bool
    ) -> DefaultsList:
        found: DefaultsList = create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        _chosen.clear()
        if prepend_hydra and not skip_missing:
            _chosen.append((_asked(repo, config_name, overrides_list), repo, found))
        return found

    return created


def _asked(repo: IConfigRepository, config_name: str | None, overrides: list[Override]) -> Any:
    sources = [(source.provider, source.path) for source in repo.get_sources()]
    return sources, config_name, [override.input_line for override in overrides]


def files_chosen(
    repo: IConfigRepository, config_name: str, overrides: list[Override]
) -> tuple[IConfigRepository, DefaultsList]:
    """Which files Hydra composes of these overrides, and what was read of them; not chosen and read again where the
    composition before was this one."""
    before = _chosen.pop() if _chosen else None
    if before is not None and before[0] == _asked(repo, config_name, overrides):
        return before[1:]
    found = defaults_list.create_defaults_list(repo, config_name, overrides, prepend_hydra=True, skip_missing=False)
    return repo, found


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


# OmegaConf's own, with the same effect. For each of 140 files it goes through all that is composed so far.


def _re_parent(self: Box) -> None:
    """Every value below a node is told its parent, and forgets which flags held before."""
    waiting: list[Node] = [self]
    while waiting:
        box = waiting.pop()
        content = box.__dict__["_content"]
        if isinstance(box, DictConfig):
            values = list(content.values()) if isinstance(content, dict) else []
        elif isinstance(box, ListConfig):
            values = content if isinstance(content, list) else []
        else:
            values = [content] if isinstance(content, Node) else []
        for value in values:
            if value is not None:
                inside = value.__dict__
                inside["_parent"], inside["_flags_cache"] = box, None
                if "_content" in inside:
                    waiting.append(value)


def _copied(self: Metadata, memo: dict[int, Any]) -> Metadata:
    """What is known of a node, for its copy. Types are shared, as ``copy.deepcopy`` shares them."""
    found = object.__new__(type(self))
    found.__dict__.update(self.__dict__)
    found.flags = None if self.flags is None else dict(self.flags)
    found.resolver_cache = defaultdict(dict, copy.deepcopy(dict(self.resolver_cache), memo))
    return found
