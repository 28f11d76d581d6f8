"""Overrides composed one after the other, so that all that is wrong with them is named at once, each on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config import missing_files, renamed, schema, yaml_files
from lit_llm.config.composition_speed import compose_faster
from lit_llm.config.conf_files import CONFIG, INSIDE_THE_STAGE, conf_folder, options
from lit_llm.config.pipeline_keys import PeopleConfig
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import hint, nearest

COMMANDS = ("pipeline",)  # words that stand alone: the first of plan.py's


def quoted(text: str) -> str:
    """A text as Hydra's overrides write it, taken literally: as it is where nothing in it is special."""
    if re.fullmatch(r"[A-Za-z/.~_-][\w/.:@%+~-]*", text) and text.lower() not in _WORDS:
        return text
    inner = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text.replace("${", "\\${"))
    ends = len(inner) - len(inner.rstrip("\\"))
    return f"'{inner}{inner[len(inner) - ends :]}'"


_WORDS = {"null", "true", "false", "nan", "inf", "infinity", "-inf", "-infinity", "-nan", "none"}


def text_of(value: str) -> str:
    """The text that an override's value stands for: ``'a b'`` is a b."""
    try:
        found = OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return value
    if not isinstance(found, str):
        return value
    return found.replace("\\${", "${") if value[:1] in "'\"" else found


# Keys whose values are texts, whatever they look like: places and names. Elsewhere 1_000 is a number.
TEXTS = ("resume", "init_from", "path", "replay_path", "ptx_path", "folder", "cache_dir", "outputs", "cache", "name",
         "replay_name", "dir", "subdir", "base_model", "reference_logps", "win_rate", "rankings", "model", "experiment",
         "function", "study_name", "storage")  # fmt: skip


def literal(words: list[str]) -> list[str]:
    """The overrides with places and names quoted where Hydra would read something else in them, or nothing.

    So a folder may have ``=``, blanks, brackets, commas, quotes or digits with underscores in its name.
    """
    return [_literal(word) for word in words]


def _literal(word: str) -> str:
    key, equals, value = word.partition("=")
    last = re.split(r"[./@]", key.lstrip("+~"))[-1]
    if last == "columns" and value[:1] == "{" and not _is_read(word):
        return f"{key}={quoted(value)}"  # names in other letters than Hydra's: the map as a text
    group = (conf_folder() / key.lstrip("+~").partition("@")[0]).is_dir()
    if not equals or word.startswith("-") or not value or not (last in TEXTS or group):
        return word
    if value.lower() in ("null", "???") or (value[:1] in "'\"" and value[-1:] == value[:1] and len(value) > 1):
        return word
    if not group and _exists(value):
        return f"{key}={quoted(value)}"
    try:
        found = OverridesParser.create().parse_override(word)
    except HydraException:
        return word if value[:1] in "[{" or "${" in value else f"{key}={quoted(value)}"
    if found.is_sweep_override():
        return word
    plain = found.value()
    data = last in ("path", "replay_path", "ptx_path")  # there a number with a point is told: 1.10 would be 1.1
    number = isinstance(plain, bool | int) or (isinstance(plain, float) and not data)
    return f"{key}={quoted(value)}" if number else word


def _is_read(word: str) -> bool:
    """Whether Hydra reads the override."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def careful_with_files() -> None:
    """Every YAML file outside the package is checked before Hydra reads it, from now on in this process."""
    Plugins.instance()  # registers them
    source: Any = SourcesRegistry.instance().resolve("file")
    original = source.load_config
    if getattr(original, "careful", False):
        return

    def load_config(self: Any, config_path: str) -> ConfigResult:
        place = Path(self.path) / self._normalize_file_name(config_path)
        if place.exists():
            yaml_files.check(place)
        result: ConfigResult = original(self, config_path)
        return result

    load_config.careful = True  # type: ignore[attr-defined]
    source.load_config = load_config


@contextmanager
def composing() -> Iterator[None]:
    """Hydra set up to compose from our configuration package, and cleared again for Hydra's own main."""
    careful_with_files()
    compose_faster()
    GlobalHydra.instance().clear()
    hydra.initialize_config_module(CONFIG, version_base="1.3")
    _composed.clear()
    try:
        yield
    finally:
        _composed.clear()
        GlobalHydra.instance().clear()


def search_path(words: list[str], folders: list[str]) -> list[str]:
    """--config-dir for a composition outside Hydra's main, where only hydra.searchpath is known."""
    if not folders or any(word.startswith("hydra.searchpath=") for word in words):
        return []
    places = ",".join(quoted(f"file://{Path(folder).expanduser().resolve()}") for folder in folders)
    return [f"hydra.searchpath=[{places}]"]


def override_words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The overrides among the arguments (options first), and the folders given by --config-dir."""
    folders = [word.partition("=")[2] for word in arguments if word.startswith("--config-dir=")]
    return [word for word in arguments if not word.startswith("-")], folders


def parsed(words: list[str], findings: list[str], hydra_too: bool = False, several: bool = True) -> Iterator[Override]:
    """The overrides, a sweep's by each of its first values; what cannot be read becomes a finding, and so does a sweep
    where not ``several`` runs are asked for."""
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            if word in options("stage"):
                findings.append(f"{word}: write stage={word}")
                continue
            findings.append(_unread(word, error))
            continue
        if override.is_sweep_override():
            if not several:
                key, _, value = word.partition("=")
                findings.append(f"{word}: several values are a sweep; add --multirun, or write a list: {key}=[{value}]")
            first = _first_of(override)
            override = parser.parse_override(f"{word.partition('=')[0]}={first}")
        if override.value() is None and (conf_folder() / str(override.key_or_group)).is_dir():
            group = override.key_or_group
            findings.append(f"{word}: a run needs one; give the name of a file in conf/{group}/, or leave it out")
            continue
        if hydra_too or not override.is_hydra_override() or word.startswith("hydra.searchpath="):
            yield override


def _unread(word: str, error: HydraException) -> str:
    """What is said of a word that is no override."""
    if re.fullmatch(r"[\w.-]+", word) and "=" not in word:
        stages = {name: f"stage={name}" for name in options("stage")}
        found = nearest(word, [*stages, *COMMANDS], 0.7)
        near = f"did you mean {stages.get(str(found), found)}? " if found else ""
        return f"{word}: not key=value; {near}(--help lists the keys)"
    return f"{word}: cannot be read ({str(error).splitlines()[0]}); write key=value, quote what is special"


def is_interval(word: str) -> bool:
    """Whether an override gives all numbers between two."""
    try:
        return OverridesParser.create().parse_override(word).is_interval_sweep()
    except HydraException:
        return False


def _first_of(override: Override) -> str:
    """A value of a sweep, as it is written."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return str(value.start)
    return next(iter(override.sweep_string_iterator()), "")


def composed(
    config_name: str, overrides: list[Override], findings: list[str], hydra_too: bool = False
) -> DictConfig | None:
    """Compose, setting aside one wrong override after the other, so that all of them are named at once."""
    remaining = list(overrides)
    for _ in range(len(overrides) + 1):
        try:
            words = [str(item.input_line) for item in remaining]
            return _composition(config_name, words, hydra_too)
        except UserError as error:  # a file of the user's
            findings.append(str(error))
            return None
        except (HydraException, OmegaConfBaseException) as error:
            culprit = _culprit(error, remaining)
            findings.append(_explain(config_name, error, culprit, remaining))
            if culprit is None:
                return None
            remaining.remove(culprit)
        except UNEXPECTED as error:
            findings.append(_unexpected(error, remaining))
            return None
    return None


_composed: dict[tuple[Any, ...], DictConfig] = {}  # while one command line is looked at: each takes a second or more


def _composition(config_name: str, words: list[str], hydra_too: bool = False) -> DictConfig:
    key = (config_name, *words, hydra_too)
    if key not in _composed:
        _composed[key] = hydra.compose(config_name, words, return_hydra_config=hydra_too)
    return _composed[key]


UNEXPECTED = (AssertionError, AttributeError, TypeError, ValueError, RecursionError, OSError, yaml.YAMLError)


def _unexpected(error: Exception, overrides: list[Override]) -> str:
    """Hydra's own words about a file that it could not make sense of (a list of defaults that is none ...)."""
    files = [str(item.input_line) for item in overrides if (conf_folder() / str(item.key_or_group)).is_dir()]
    what = " ".join(str(error).split())[:200] or type(error).__name__
    what = "its defaults lead back to it" if isinstance(error, RecursionError) else what
    return f"{' '.join(files) or 'the configuration'}: cannot be composed ({what})"


def _culprit(error: Exception, overrides: list[Override]) -> Override | None:
    """The override that an exception of Hydra's speaks of."""
    if isinstance(error, MissingConfigException):
        for item in overrides:
            if error.missing_cfg_file in (f"{item.get_key_element()}/{item.value()}", str(item.value())):
                return item
            if error.missing_cfg_file == f"{item.key_or_group!s}/{item.value()}":
                return item
    text = str(error)
    for item in sorted(overrides, key=lambda item: -len(str(item.get_key_element()))):  # a.b before a
        line = str(item.input_line)
        key = str(item.get_key_element()).lstrip("+~")
        if f"override {line}" in text or f"'{key}'" in text or f"override '{key}" in text:
            return item
    return None


def _explain(config_name: str, error: Exception, culprit: Override | None, overrides: list[Override]) -> str:
    said = [line for one in (error, error.__cause__, error.__context__) if one for line in str(one).splitlines()]
    first = next(iter(said), type(error).__name__)
    if "raised while composing config" in first:
        return _in_a_file(error)
    if (old := re.match(r"In '(.*)': Could not override '(loss|reward)@stage\.\2'", first)) is not None:
        return f"{old[1]}.yaml: {old[2]}@stage.{old[2]} is called {old[2]} now: - override /{old[2]}: NAME"
    if isinstance(error, MissingConfigException) and culprit is not None:
        return missing_files.chosen(str(culprit.key_or_group), str(culprit.value()), error.options or [])
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return missing_files.named(str(error.missing_cfg_file), error.options or [])
    if culprit is None:
        files = " ".join(
            str(item.input_line) for item in overrides if (conf_folder() / str(item.key_or_group)).is_dir()
        )
        line = first if not isinstance(error, OmegaConfBaseException) else _where(error)
        return f"{files}: {line}" if files else line
    line, key = str(culprit.input_line), str(culprit.key_or_group)
    cause = error.__cause__
    unknown = isinstance(error, ConfigCompositionException) and first.startswith("Could not override")
    if unknown and config_name == "pipeline" and key in INSIDE_THE_STAGE:
        return f"{line}: a key of one step; write {key}@stages.STEP.stage.{key}={culprit.value()}"
    if unknown and config_name == "pipeline" and key.split(".")[0] in schema.TrainConfig.__dataclass_fields__:
        return f"{line}: a key of one step; write stages.STEP.{line} (--help lists the steps), or use scripts/train.py"
    if unknown:
        known = _known_keys(config_name, [item for item in overrides if item is not culprit])
        inside = [one for one in known if one.rpartition(".")[2] == key]
        if inside:
            return f"{line}: unknown key; did you mean {min(inside, key=len)}?"
        return f"{line}: unknown key; {hint(key, known)}" if known else f"{line}: unknown key"
    if isinstance(cause, OmegaConfBaseException) and "is not Optional" in str(cause):
        return f"{line}: cannot be null; leave it out for what is usual"
    if isinstance(cause, OmegaConfBaseException):
        return f"{line}: {str(cause).splitlines()[0]}"
    return f"{line}: {first}"


def _in_a_file(error: Exception) -> str:
    """What a file of a group sets that is not there, or cannot be set so."""
    lines = [line.strip() for line in str(error).splitlines()]
    file = re.sub(r"^In '(.*)': .*", r"\1", lines[0])
    what = lines[1] if len(lines) > 1 else type(error).__name__
    unknown = re.match(r"Key '(.+)' not in '(\w+)'", what)
    if unknown is None:
        return f"{file}.yaml: {what}"
    kind = getattr(schema, unknown[2], schema.TrainConfig)
    if unknown[1] == file.split("/")[0]:
        return f"{file}.yaml: its first line must be '# @package _global_', so that its keys are those of a run"
    name = unknown[1]
    better = hint(name, list(kind.__dataclass_fields__))
    if kind is schema.TrainConfig and name in renamed.stage_keys():
        better = f"it is one of the stage: stage: {{{name}: ...}}"
    if kind is PeopleConfig and name == "rankings":
        better = "rankings: stands beside people: now"
    where = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), name)
    return f"{file}.yaml: {where}: unknown key; {better}"


def _where(error: OmegaConfBaseException) -> str:
    return f"{error.full_key or ''}: {str(error).splitlines()[0]}"


def _known_keys(config_name: str, overrides: list[Override]) -> list[str]:
    """All keys that could be meant: those of the composition without the values given, and the groups."""
    places = [str(item.input_line) for item in overrides if item.is_hydra_override()]
    choices = [str(item.input_line) for item in overrides if (conf_folder() / str(item.key_or_group)).is_dir()]
    try:
        cfg = _composition(config_name, [*places, *choices])
    except (HydraException, OmegaConfBaseException):
        try:
            cfg = hydra.compose(config_name, places)
        except (HydraException, OmegaConfBaseException):
            return []
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    keys = {key for key, _ in schema.flat(plain)}  # type: ignore[arg-type]
    parents = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    groups = {path.name for path in conf_folder().iterdir() if path.is_dir() and not path.name.startswith("_")}
    return sorted(key for key in keys | parents | groups if "_target_" not in key and "_partial_" not in key)
