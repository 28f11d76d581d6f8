"""What the user said, told from what the package's own configuration files say: only the latter may give way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lit_llm.config import schema
from lit_llm.config.composition_speed import files_chosen
from lit_llm.config.conf_files import CONFIG
from lit_llm.config.overrides import override_words

OURS = ("hydra", "main", "schema")  # providers of configuration files that no user wrote


@dataclass(frozen=True)
class Given:
    """Keys with a value of the user's own, and groups of which the user chose the option."""

    keys: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def has(self, key: str) -> bool:
        """Whether the user gave ``key``, or what it is in."""
        return any(key == one or key.startswith(f"{one}.") for one in self.keys)

    def within(self, node: str) -> list[str]:
        """The keys directly in ``node`` that the user gave."""
        return [one.removeprefix(f"{node}.").split(".")[0] for one in self.keys if one.startswith(f"{node}.")]


def given_in(config_name: str, arguments: Sequence[str]) -> Given:
    """What a command line says, and the files outside the package that it takes in."""
    words, folders = override_words(list(arguments))
    return given_by(config_name, words, [f"file://{Path(folder).resolve()}" for folder in folders])


def given_to_job() -> Given:
    """The same for the job that Hydra is running, one of a sweep's too."""
    hydra = HydraConfig.get()
    places = [f"{one.schema}://{one.path}" for one in hydra.runtime.config_sources if one.provider not in OURS]
    return given_by(str(hydra.job.config_name), list(hydra.overrides.task), places)


def given_by(config_name: str, words: Sequence[str], places: Iterable[str]) -> Given:
    """``words`` are overrides, ``places`` the sources of further configuration files, as ``file:///folder``."""
    path = create_config_search_path(f"pkg://{CONFIG}")
    structured = path.get_path().pop()
    for place in places:
        path.append("user", place)
    path.append(structured.provider, structured.path)
    overrides, unread = ConfigLoaderImpl(path)._parse_overrides_and_create_caching_repo(config_name, list(words))
    files, found = files_chosen(unread, config_name, overrides)
    keys = {override.key_or_group for override in found.config_overrides}
    for default in found.defaults:
        if default.config_path is not None and _users(files, default.config_path):
            keys.update(_keys(files, default.config_path, default.package or ""))
    chosen = found.overrides.override_metadata.items()
    groups = {
        key.partition("@")[2] or key.replace("/", ".")
        for key, how in chosen
        if how.external_override or (how.containing_config_path and _users(files, how.containing_config_path))
    }
    return Given(frozenset(keys), frozenset(groups))


def _users(files: IConfigRepository, path: str) -> bool:
    """Whether a file says what its user means: one from elsewhere, or an experiment or overlay chosen for its values.

    The default pipeline is what comes where nothing is said.
    """
    loaded = files.load_config(path)
    if loaded is None or loaded.provider not in OURS:
        return loaded is not None
    group, _, name = path.rpartition("/")
    return group == "debug" or (group == "experiment" and name != "default")


def _keys(files: IConfigRepository, path: str, package: str) -> Iterator[str]:
    loaded = files.load_config(path)
    values: Any = OmegaConf.to_container(loaded.config, resolve=False) if loaded is not None else {}
    if isinstance(values, Mapping):
        for key, _ in schema.flat({str(key): value for key, value in values.items() if key != "defaults"}):
            yield f"{package}.{key}" if package else key
