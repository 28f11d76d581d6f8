"""A Hugging Face config.json to a BackboneConfig and back, by the table of families (``family_table.py``).

What a config.json says and changes what a model computes is read, or refused by its key: nothing is ignored. Rotary
settings are in ``rope_settings.py``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lit_llm.backbone.config import BackboneConfig, Family
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.family_table import FAMILIES, NEUTRAL, FamilyRow, Setting
from lit_llm.backbone.rope_settings import FULL, SLIDING, read_rope, write_rope
from lit_llm.errors import UserError

Head = Literal["language", "score"]


def read_config(path: Path) -> tuple[BackboneConfig, Head, dict[str, Any]]:
    """The backbone that a config.json describes, what head it has, and its raw settings. Raises UserError."""
    file = ConfigFile(path)
    family, head = _architecture(file)
    row = FAMILIES[family]
    _refuse_unsupported(file, row)
    heads, hidden = file.number(_key(row, "num_attention_heads")), file.number(_key(row, "hidden_size"))
    width = hidden // max(heads, 1)
    if row.key("head_dim") is None and file.raw.get("head_dim") not in (None, width):  # some readers turn so much
        raise file.refuse("head_dim", file.raw["head_dim"], f"heads of this family share hidden_size out: {width}")
    try:
        config = BackboneConfig(
            family=family,
            vocab_size=file.number("vocab_size"),
            hidden_size=hidden,
            num_layers=file.number(_key(row, "num_hidden_layers")),
            num_heads=heads,
            num_kv_heads=_kv_heads(file, row, heads),
            head_dim=_sized(file, row, "head_dim", row.head_dim or width),
            intermediate_size=file.number(
                _key(row, "intermediate_size"), default=4 * hidden if row.keys.get("intermediate_size") else None
            ),
            max_positions=file.number(_key(row, "max_position_embeddings")),
            norm_eps=file.number(_key(row, "rms_norm_eps"), float, row.norm_eps),
            attention_bias=file.flag("attention_bias", row.bias_default) if row.bias is None else row.bias,
            tie_embeddings=file.flag("tie_word_embeddings", row.tied),
            initializer_range=file.number("initializer_range", float, 0.02),
            **read_rope(file, row),
            **_structure(file, row),
            **_layers(file, row),
        )
    except UserError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else UserError(f"{path}: {text}") from None
    return config, head, file.raw


def _key(row: FamilyRow, usual: str) -> str:
    return row.key(usual) or usual


def _sized(file: ConfigFile, row: FamilyRow, usual: str, default: int) -> int:
    key = row.key(usual)
    size: int = default if key is None else file.number(key, default=default)
    return size


def _kv_heads(file: ConfigFile, row: FamilyRow, heads: int) -> int:
    """Null means as many as heads, which is not what a key that is left out means in every family."""
    null = "num_key_value_heads" in file.raw and file.raw["num_key_value_heads"] is None
    return _sized(file, row, "num_key_value_heads", heads if null else row.kv_heads or heads)


def _architecture(file: ConfigFile) -> tuple[Family, Head]:
    named = file.raw.get("architectures") or []
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    for family, row in FAMILIES.items():
        if name is None or name not in (row.language, row.score):
            continue
        kind, wanted = file.raw.get("model_type"), row.model_type or family
        if kind not in (None, wanted):  # transformers goes by it, others by the architecture
            raise file.refuse("model_type", kind, f"architectures says {name}, whose is {wanted}: make both the same")
        return family, "language" if name == row.language else "score"
    accepted = ", ".join(name for row in FAMILIES.values() for name in (row.language, row.score) if name)
    there = importlib.util.find_spec("transformers") is not None
    other = "any other causal model of transformers is read with backbone=transformers"
    other += "" if there else " (which needs pip install 'lit-llm[transformers]')"
    raise file.refuse("architectures", named, f"use one of {accepted}; {other}")


def _refuse_unsupported(file: ConfigFile, row: FamilyRow) -> None:
    raw = file.raw
    if raw.get("quantization_config"):
        raise file.refuse("quantization_config", "...", "use the folder of unquantised weights")
    activation = raw.get(row.activation_key) or row.activation_default
    if not isinstance(activation, str) or activation not in row.activations:
        raise file.refuse(row.activation_key, activation, f"use {' or '.join(dict.fromkeys(row.activations))}")
    for key, neutral in NEUTRAL.items():
        if raw.get(key) is not None and key not in _read_elsewhere(row) and raw[key] not in neutral:
            wanted = "null" if neutral[0] is None else str(neutral[0]).lower()
            raise file.refuse(key, raw[key], f"this family has no such setting; use {wanted} or leave it out")
    for key, other in _TWO_NAMES:  # transformers takes whichever stands last
        key = row.key(key) or key
        read = key != other and (other in row.keys or any(setting.key == key for setting in row.settings))
        if read and key in raw and raw.get(other) not in (None, raw[key]):
            raise file.refuse(other, raw[other], f"{key}={raw[key]!r} means the same: make both the same")
    no_rope = raw.get("no_rope_layers")
    if "no_rope_layers" not in row.keys and no_rope and not (isinstance(no_rope, list) and all(no_rope)):
        raise file.refuse("no_rope_layers", no_rope, "all layers of this family turn queries and keys")


_TWO_NAMES = (
    *((key, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")),
    ("num_experts", "num_local_experts"),
)
"""Llama's names of settings that a family has others for, and is read by too; and two of one."""


def _read_elsewhere(row: FamilyRow) -> set[str]:
    keys = {setting.key for setting in row.settings}
    if row.bias is not False:  # where it is true, some write the key and readers do not look
        keys.add("attention_bias")
    if "num_experts" in keys:
        keys |= {"num_local_experts", "decoder_sparse_step", "mlp_only_layers"}
    return keys


def _structure(file: ConfigFile, row: FamilyRow) -> dict[str, Any]:
    """What the family fixes, and what the file chooses of the rest."""
    found = dict(row.fixed)
    found["activation"] = row.activations[file.raw.get(row.activation_key) or row.activation_default]
    for setting in row.settings:
        found[setting.name] = _setting(file, setting)
    return found


def _setting(file: ConfigFile, setting: Setting) -> Any:
    key, default = setting.key, setting.default
    if setting.kind == "flag":
        return file.flag(key, default)
    if setting.kind == "scaled":
        return None if file.flag(key, default) else 1.0
    if setting.kind == "count":
        if key == "num_experts" and key not in file.raw:
            key = "num_local_experts"  # as transformers 5 writes it
        return file.number(key, default=default)
    if setting.kind == "number or none":
        value = file.raw.get(key, default)
        return None if value is None else file.checked(key, value, float)
    value = file.number(key, float, default)
    if setting.kind == "inverse square" and not value > 0:
        raise file.refuse(key, value, "it should be above 0")
    return value**-0.5 if setting.kind == "inverse square" else value


def _layers(file: ConfigFile, row: FamilyRow) -> dict[str, Any]:
    """The settings that differ from layer to layer."""
    count = file.number(_key(row, "num_hidden_layers"))
    found: dict[str, Any] = {}
    turned: list[bool] | None = None
    if "no_rope_layers" in row.keys:
        turned = _turned(file, count)
        found["rotary_layers"] = None if all(turned) else turned
    found |= _windows(file, row, count, turned)
    if any(setting.name == "num_experts" for setting in row.settings):
        without, step = file.raw.get("mlp_only_layers") or [], file.number("decoder_sparse_step", default=1)
        if not isinstance(without, list) or step < 1:
            raise file.refuse("mlp_only_layers", without, "it should list layers, decoder_sparse_step be at least 1")
        mixed = [layer not in without and (layer + 1) % step == 0 for layer in range(count)]
        found["expert_layers"] = None if all(mixed) else mixed
    return found


def _turned(file: ConfigFile, count: int) -> list[bool]:
    given = file.raw.get("no_rope_layers")
    if given is None:
        every = file.number("no_rope_layer_interval", default=4)
        if every < 1:
            raise file.refuse("no_rope_layer_interval", every, "it should be at least 1")
        return [bool((layer + 1) % every) for layer in range(count)]
    if not isinstance(given, list) or len(given) < count:
        raise file.refuse("no_rope_layers", given, f"it should be 1 or 0 for each of num_hidden_layers={count}")
    return [bool(value) for value in given[:count]]


def _windows(file: ConfigFile, row: FamilyRow, count: int, turned: Sequence[bool] | None) -> dict[str, Any]:
    """``sliding_window`` and the layers that have it."""
    window, kinds = file.raw.get("sliding_window", row.sliding_window), file.raw.get("layer_types")
    named = None if kinds is None else _named_windows(file, row, kinds, count)
    if not row.windows or window is None:
        if named is not None and any(named):
            raise file.refuse("layer_types", kinds, f"there is no sliding window: all layers should be {FULL}")
        return {}
    window = file.checked("sliding_window", window, int)
    on = file.flag("use_sliding_window", False) if row.window_switch else True
    if named is None:
        every = file.number("sliding_window_pattern", default=row.full_every) if row.full_every else None
        first = file.number("max_window_layers", default=28) if row.window_from else 0
        has = [on and layer >= first and (not every or bool((layer + 1) % every)) for layer in range(count)]
        if turned is not None:
            has = [one and not turn for one, turn in zip(has, turned, strict=True)]
    else:
        has = named
        if row.window_switch and not row.window_from and any(has) and not on:
            raise file.refuse(
                "use_sliding_window", on, f"layer_types has {SLIDING}: set it to true, or name no such layer"
            )
    if not any(has):
        return {}
    return {"sliding_window": window, "windowed_layers": None if all(has) else has}


def _named_windows(file: ConfigFile, row: FamilyRow, kinds: Any, count: int) -> list[bool]:
    if not isinstance(kinds, list) or len(kinds) != count or not set(map(str, kinds)) <= {SLIDING, FULL}:
        raise file.refuse("layer_types", kinds, f"needs {FULL} or {SLIDING} for each of num_hidden_layers={count}")
    if not row.layer_types and len(set(kinds)) > 1:
        raise file.refuse("layer_types", sorted(set(kinds)), "all layers should be of one kind, full or sliding")
    return [kind == SLIDING for kind in kinds]


def write_config(config: BackboneConfig, head: Head) -> dict[str, Any]:
    """The settings of a config.json that transformers, vLLM and llama.cpp read, without token ids and dtype."""
    row = FAMILIES[config.family]
    if head == "score" and row.score is None:
        raise UserError(f"family {config.family} has no reward model in transformers: start it from another family")
    usual = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": bool(config.attention_bias),
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    settings: dict[str, Any] = {
        "architectures": [row.language if head == "language" else row.score],
        "model_type": row.model_type or config.family,
    }
    settings |= {name: value for key, value in usual.items() if (name := row.key(key)) is not None}
    if config.activation != "silu" or row.activation_key != "hidden_act":
        settings.pop("hidden_act", None)
        names = {ours: theirs for theirs, ours in reversed(list(row.activations.items()))}
        settings[row.activation_key] = names[config.activation]
    settings |= write_rope(config, row)
    if row.windows:
        settings["sliding_window"] = config.sliding_window
    settings |= _written_layers(config, row) | _written_settings(config, row)
    if head == "score":
        settings |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    return settings


def _written_layers(config: BackboneConfig, row: FamilyRow) -> dict[str, Any]:
    layers = range(config.num_layers)
    windowed = [config.window_of(layer) is not None for layer in layers]
    settings: dict[str, Any] = {}
    if row.window_switch:
        settings["use_sliding_window"] = any(windowed)
    if row.window_from:
        settings["max_window_layers"] = windowed.index(True) if any(windowed) else config.num_layers
    if row.layer_types:
        settings["layer_types"] = [SLIDING if one else FULL for one in windowed]
    if "no_rope_layers" in row.keys:
        settings["no_rope_layers"] = [int(config.rotates(layer)) for layer in layers]
    if config.num_experts:
        settings |= {"decoder_sparse_step": 1, "output_router_logits": False}
        settings["mlp_only_layers"] = [layer for layer in layers if not config.has_experts(layer)]
        settings["num_local_experts"] = config.num_experts  # as transformers 5 writes it
    return settings


def _written_settings(config: BackboneConfig, row: FamilyRow) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for setting in row.settings:
        value = getattr(config, setting.name)
        if setting.kind == "scaled":
            value = value is None
        elif setting.kind == "inverse square":
            square = value**-2
            value = round(square) if abs(square - round(square)) < 1e-6 * square else square
        written[setting.key] = value
    return written
