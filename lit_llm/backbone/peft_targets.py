"""Beside which layers an adapter of PEFT's stands, and with what rank and alpha: by its settings, as PEFT matches them.

As PEFT 0.21.2 does it (``peft.tuners.tuners_utils.check_target_module_exists``, ``peft.utils.other.get_pattern_key``,
``peft.utils.other._set_trainable``), by the paths of modules in transformers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lit_llm.backbone.config import LINEAR_LAYERS, BackboneConfig
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.lora_files import patterns, their_targets
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.errors import UserError

ALL_LINEAR = "all-linear"
RANKS, ALPHAS = "rank_pattern", "alpha_pattern"
SCORE = frozenset({"score", "classifier"})  # PEFT names both for a reward model


class Size(NamedTuple):
    rank: int
    alpha: float


def path_of(module: str, config: BackboneConfig | TransformersConfig) -> str:
    """What a module here is called in transformers."""
    return layout_of(config).their_name(f"{module}.weight").removesuffix(".weight")


def chosen(
    file: ConfigFile, modules: Collection[str], others: Iterable[str], config: BackboneConfig | TransformersConfig
) -> list[str]:
    """Those of ``modules``, by their names here, beside which the adapter stands.

    Args:
        modules: all that can have one.
        others: the rest of the model's: PEFT would put one beside some of them, or end over them.
    """
    named, layers = file.raw.get("target_modules"), _layers(file)
    paths = {name: path_of(name, config) for name in modules}
    saved = saved_modules(file)
    excluded = {path for path in paths.values() if _is_excluded(file, path, saved)}
    if isinstance(named, str):
        if layers is not None:
            raise file.refuse("layers_to_transform", file.raw["layers_to_transform"], "PEFT has it beside a list alone")
        if (elsewhere := _matched_elsewhere(file, named, others, saved, config)) is not None:
            raise file.refuse(
                "target_modules", named, f"it means {elsewhere} too, beside which there is no adapter here"
            )
        found = [name for name, path in paths.items() if _means(file, named, path)]
    else:
        names = _names(file, set(paths.values()), config)
        found = [name for name, path in paths.items() if _is_named(file, names, path, layers)]
    found = [name for name in found if paths[name] not in excluded]
    if not found:
        raise file.refuse("target_modules", named, "with the settings beside it, it means no layer of the model")
    return found


def sizes(file: ConfigFile, paths: Mapping[str, str], size: Size) -> dict[str, Size]:
    """Rank and alpha of each layer. ``paths``: names here to those in transformers; ``size``: where no pattern says."""
    ranks, alphas = _pattern(file, RANKS, int), _pattern(file, ALPHAS, float)
    return {
        name: Size(_of_pattern(ranks, path, size.rank), _of_pattern(alphas, path, size.alpha))
        for name, path in paths.items()
    }


def saved_modules(file: ConfigFile) -> list[str]:
    saved = file.raw.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise file.refuse("modules_to_save", saved, "a list of names, or null")
    return saved


def written(
    layers: Mapping[str, Size], linear: Collection[str], config: BackboneConfig, rank_stabilized: bool
) -> dict[str, Any]:
    """The settings that mean these layers, by their names here. ``linear``: all that could have an adapter.

    Raises UserError for some layers of a family whose files hold several matrices as one.
    """
    size = Counter(layers.values()).most_common(1)[0][0]
    last = {name.rpartition(".")[2] for name in layers}
    found: dict[str, Any] = {"r": size.rank, "lora_alpha": size.alpha}
    if len(set(layers.values())) == 1 and set(layers) == {name for name in linear if name.rpartition(".")[2] in last}:
        parts = patterns(last, config, size.rank, size.alpha, rank_stabilized)
        return {**found, "target_modules": their_targets(last, config), **parts}
    if layout_of(config).fused:
        raise UserError(
            f"stage.lora_merge=false: an adapter of some layers of {config.family}, or of several ranks, is not "
            "written again: its files hold several matrices as one; leave stage.lora_merge out"
        )
    paths = {path_of(name, config): each for name, each in layers.items()}
    ranks = {path: each.rank for path, each in paths.items() if each.rank != size.rank}
    alphas = {path: each.alpha for path, each in paths.items() if each.alpha != size.alpha}
    return {**found, "target_modules": sorted(paths), RANKS: ranks, ALPHAS: alphas}


# ---- what matches --------------------------------------------------------------------------------------------------


def _names(file: ConfigFile, paths: Collection[str], config: BackboneConfig | TransformersConfig) -> list[str]:
    """The list of ``target_modules``; each name should mean something."""
    named = file.raw.get("target_modules")
    given = named if isinstance(named, list) and all(isinstance(name, str) for name in named) else []
    if not given or not all(any(path == name or path.endswith(f".{name}") for path in paths) for name in given):
        known = sorted({path.rpartition(".")[2] for path in paths})
        if not isinstance(config, TransformersConfig):
            known = their_targets([name for name in LINEAR_LAYERS if name != "gate_proj" or config.gated_mlp], config)
        raise file.refuse("target_modules", named, f"a list of some of {', '.join(known)}, or a regular expression")
    return given


def _is_named(file: ConfigFile, names: Sequence[str], path: str, layers: Collection[int] | None) -> bool:
    if path in names:  # in full: PEFT does not ask for its layer
        return True
    if not any(path.endswith(f".{name}") for name in names):
        return False
    return layers is None or _layer_of(file, path) in layers


def _means(file: ConfigFile, pattern: str, path: str) -> bool:
    return pattern.lower() == ALL_LINEAR or _match(file, "target_modules", pattern, path)


def _matched_elsewhere(
    file: ConfigFile,
    pattern: str,
    others: Iterable[str],
    saved: Sequence[str],
    config: BackboneConfig | TransformersConfig,
) -> str | None:
    if pattern.lower() == ALL_LINEAR:  # PEFT leaves the head out
        return None
    paths = [*(path_of(name, config) for name in others), layout_of(config).heads.get("lm_head", "lm_head")]
    return next(
        (one for one in paths if _match(file, "target_modules", pattern, one) and not _is_excluded(file, one, saved)),
        None,
    )


def _is_excluded(file: ConfigFile, path: str, saved: Sequence[str]) -> bool:
    without = file.raw.get("exclude_modules")
    if not without:
        if without not in (None, "", []):
            raise file.refuse("exclude_modules", without, "a list of names, a regular expression, or null")
    elif isinstance(without, str):
        if _match(file, "exclude_modules", without, path):
            return True
    elif not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise file.refuse("exclude_modules", without, "a list of names, a regular expression, or null")
    elif any(path == name or path.endswith(f".{name}") for name in without):
        return True
    return any(_search(file, "modules_to_save", rf"(^|.*\.){name}($|\..*)", path) is not None for name in saved)


def _layers(file: ConfigFile) -> list[int] | None:
    """The layers that adapters are for; None: all."""
    given, pattern = file.raw.get("layers_to_transform"), file.raw.get("layers_pattern")
    many = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in many):
        raise file.refuse("layers_to_transform", given, "a layer's number, a list of them, or null")
    if pattern and not many:
        raise file.refuse("layers_pattern", pattern, "PEFT has it beside layers_to_transform alone")
    return many or None


def _layer_of(file: ConfigFile, path: str) -> int | None:
    """The first number in a path, or the one behind ``layers_pattern``."""
    given = file.raw.get("layers_pattern") or [r"[^.]*"]
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise file.refuse("layers_pattern", given, "a name, a list of names, or null")
    for name in names:
        if (found := _search(file, "layers_pattern", rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\.", path)) is not None:
            return int(found["layer"])
    return None


def _pattern(file: ConfigFile, key: str, kind: type[int] | type[float]) -> dict[str, Any]:
    given = file.raw.get(key) or {}
    if not isinstance(given, dict):
        raise file.refuse(key, given, "an object of names to numbers, or null")
    found = {name: file.checked(f"{key}.{name}", value, kind) for name, value in given.items()}
    for name, value in found.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{file.path}: {key}.{name}={value} should be above 0")
        _search(file, key, f"({name})$", "")  # whether it is an expression
    return found


def _of_pattern(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """The number of the first name that is the end of a path."""
    return next((number for name, number in pattern.items() if re.match(rf"(.*\.)?({name})$", path)), default)


def _match(file: ConfigFile, key: str, pattern: str, path: str) -> bool:
    return _search(file, key, pattern, path, whole=True) is not None


def _search(file: ConfigFile, key: str, pattern: str, path: str, whole: bool = False) -> re.Match[str] | None:
    try:
        return re.fullmatch(pattern, path) if whole else re.match(pattern, path)
    except re.error as error:
        raise file.refuse(key, file.raw.get(key), f"it should be a regular expression ({error})") from None


def embedding_and_head(file: ConfigFile, config: BackboneConfig | TransformersConfig) -> Iterator[str]:
    """Which of the two, by their names here, ``modules_to_save`` holds whole; the head of a reward model beside them.

    Raises UserError for another module.
    """
    whole = {
        "backbone.embed_tokens": path_of("backbone.embed_tokens", config),
        "lm_head": layout_of(config).heads.get("lm_head", "lm_head"),
    }
    whole = {} if isinstance(config, TransformersConfig) else whole
    for name in saved_modules(file):
        found = [ours for ours, path in whole.items() if path.endswith(name)]
        if not found and name not in SCORE:
            known = "".join(f"{path.rpartition('.')[2]}, " for path in whole.values())
            raise file.refuse("modules_to_save", saved_modules(file), f"{known}score of a reward model, or null")
        yield from found
