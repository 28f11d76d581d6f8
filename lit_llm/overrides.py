"""Overrides composed one after the other, so that all that is wrong with them is named at once, each on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm import config as schema
from lit_llm.validation import nearest

CONFIG = "lit_llm.conf"
TAKES_VALUE = (
    "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p",
    "--info", "-i", "--experimental-rerun",
)  # fmt: skip


def conf_folder() -> Path:
    return Path(__import__(CONFIG, fromlist=["conf"]).__path__[0])


@contextmanager
def composing() -> Iterator[None]:
    """Hydra set up to compose from our configuration package, and cleared again for Hydra's own main."""
    GlobalHydra.instance().clear()
    hydra.initialize_config_module(CONFIG, version_base="1.3")
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def search_path(words: list[str], folders: list[str]) -> list[str]:
    """--config-dir for a composition outside Hydra's main, where only hydra.searchpath is known."""
    if not folders or any(word.startswith("hydra.searchpath=") for word in words):
        return []
    places = ",".join(f"file://{Path(folder).resolve()}" for folder in folders)
    return [f"hydra.searchpath=[{places}]"]


def override_words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The overrides among the arguments, and the folders given by --config-dir."""
    words: list[str] = []
    folders: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word in TAKES_VALUE:
            value = next(rest, "")
            folders += [value] if word in ("--config-dir", "-cd") else []
        elif word.startswith("--config-dir="):
            folders.append(word.partition("=")[2])
        elif not word.startswith("-"):
            words.append(word)
    return words, folders


def people_words(word: str) -> list[str] | None:
    """rankings=FILE, rankings=ask and rankings.enough=N in the configuration's words; None for any other word."""
    key, equals, value = word.partition("=")
    if equals and key in ("rankings.enough", "rankings.overlap"):
        return [f"people.{key.partition('.')[2]}={value}"]
    if not equals or key != "rankings" or value in ("null", "") or value.startswith("{"):
        return None
    if value == "simulated":
        return ["people.rankings=null"]
    plain = re.fullmatch(r"[\w/.:@%+\-]+", value) or value.startswith(("${", "'", '"'))
    quoted = value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return [f"people.rankings={quoted}"]


def parsed(words: list[str], findings: list[str]) -> Iterator[Override]:
    """The overrides, a sweep's by each of its first values; what cannot be read becomes a finding."""
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            findings.append(
                f"{word}: cannot be read ({str(error).splitlines()[0]}); write key=value, quote what is special"
            )
            continue
        if override.is_sweep_override():
            first = next(iter(override.sweep_string_iterator()), "")
            override = parser.parse_override(f"{word.partition('=')[0]}={first}")
        if not override.is_hydra_override() or word.startswith("hydra.searchpath="):
            yield override


def composed(config_name: str, overrides: list[Override], findings: list[str]) -> DictConfig | None:
    """Compose, setting aside one wrong override after the other, so that all of them are named at once."""
    remaining = list(overrides)
    for _ in range(len(overrides) + 1):
        try:
            return hydra.compose(config_name, [str(item.input_line) for item in remaining])
        except (HydraException, OmegaConfBaseException) as error:
            culprit = _culprit(error, remaining)
            findings.append(_explain(config_name, error, culprit, remaining))
            if culprit is None:
                return None
            remaining.remove(culprit)
    return None


def _culprit(error: Exception, overrides: list[Override]) -> Override | None:
    """The override that an exception of Hydra's speaks of."""
    if isinstance(error, MissingConfigException):
        for item in overrides:
            if error.missing_cfg_file in (f"{item.get_key_element()}/{item.value()}", str(item.value())):
                return item
            if error.missing_cfg_file == f"{item.key_or_group!s}/{item.value()}":
                return item
    text = str(error)
    for item in overrides:
        line = str(item.input_line)
        key = str(item.get_key_element()).lstrip("+~")
        if f"override {line}" in text or f"'{key}'" in text or f"override '{key}" in text:
            return item
    return None


def _explain(config_name: str, error: Exception, culprit: Override | None, overrides: list[Override]) -> str:
    first = str(error).splitlines()[0]
    if isinstance(error, MissingConfigException) and culprit is not None:
        group, name = str(culprit.key_or_group), str(culprit.value())
        return f"{group}={name}: no such {group.split('/')[-1]}; {nearest(name, error.options or [])}"
    if culprit is None:
        return first if not isinstance(error, OmegaConfBaseException) else _where(error)
    line, key = str(culprit.input_line), str(culprit.key_or_group)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and first.startswith("Could not override"):
        known = _known_keys(config_name, [item for item in overrides if item is not culprit])
        return f"{line}: unknown key; {nearest(key, known)}" if known else f"{line}: unknown key"
    if isinstance(cause, OmegaConfBaseException):
        return f"{line}: {str(cause).splitlines()[0]}"
    return f"{line}: {first}"


def _where(error: OmegaConfBaseException) -> str:
    return f"{error.full_key or ''}: {str(error).splitlines()[0]}"


def _known_keys(config_name: str, overrides: list[Override]) -> list[str]:
    """All keys that could be meant: those of the composition without the values given, and the groups."""
    places = [str(item.input_line) for item in overrides if item.is_hydra_override()]
    choices = [str(item.input_line) for item in overrides if (conf_folder() / str(item.key_or_group)).is_dir()]
    try:
        cfg = hydra.compose(config_name, [*places, *choices])
    except (HydraException, OmegaConfBaseException):
        cfg = hydra.compose(config_name, places)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    keys = {key for key, _ in schema.flat(plain)}  # type: ignore[arg-type]
    parents = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    groups = {path.name for path in conf_folder().iterdir() if path.is_dir() and not path.name.startswith("_")}
    return sorted(key for key in keys | parents | groups if "_target_" not in key and "_partial_" not in key)
