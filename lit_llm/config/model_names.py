"""Models that a configuration names otherwise than by a folder are replaced by their folders before anything looks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config.environment import real_text
from lit_llm.errors import UserError
from lit_llm.model_sources.folders import folder_of, names_other_source

_ALWAYS = ("init_from",)
_OF_OBJECTS = ("folder", "folders", "model", "tokenizer")  # beside a _target_
_PLACES = ("annotation.model", "answers.model", "best_of_n.model")


def with_folders(cfg: DictConfig) -> DictConfig:
    """The configuration with a folder in place of every ``FILE.gguf``, ``installed/NAME`` and ``hub:OWNER/NAME``.

    What is read from files is kept below ``paths.cache``. Raises UserError with the key before its line.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    named = list(_names(plain, ""))
    if not named:
        return cfg
    cfg, cache = copy.deepcopy(cfg), _cache(cfg)
    for key, text in named:
        try:
            OmegaConf.update(cfg, key, str(folder_of(real_text(text), cache)), force_add=True)
        except UserError as error:
            raise UserError(f"{key}={error}" if str(error).startswith(text) else f"{key}={text}: {error}") from None
    return cfg


def _names(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _names(item, f"{place}[{number}]")
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        key = f"{place}.{name}" if place else str(name)
        if name in _ALWAYS or key in _PLACES or (name in _OF_OBJECTS and "_target_" in value):
            texts = {f"{key}[{n}]": one for n, one in enumerate(item)} if isinstance(item, list) else {key: item}
            found = [(k, one) for k, one in texts.items() if isinstance(one, str)]
            yield from ((k, one) for k, one in found if names_other_source(real_text(one)))
        if isinstance(item, dict | list):
            yield from _names(item, key)


def _cache(cfg: DictConfig) -> str | None:
    try:
        found = OmegaConf.select(cfg, "paths.cache")
    except OmegaConfBaseException:
        return None
    return None if found is None else str(found)
