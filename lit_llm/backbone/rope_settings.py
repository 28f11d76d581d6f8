"""Rotary settings of a config.json, in both spellings.

Newer transformers write ``rope_parameters``, with the base inside and for some families one object for each kind of
layer; older engines read ``rope_theta`` and ``rope_scaling`` (vllm#42624). Both are read, both are written. A file in
which they say different things is refused: transformers takes ``rope_scaling`` then, llama.cpp's converter the other.
"""

from __future__ import annotations

from typing import Any

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.family_table import FamilyRow
from lit_llm.backbone.rope_scaling import RopeScaling

FULL, SLIDING = "full_attention", "sliding_attention"
NEW, OLD = "rope_parameters", "rope_scaling"
ORIGINAL = "original_max_position_embeddings"
LOCAL = "rope_local_base_freq"  # the base of windowed layers, in the old spelling
OWN = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
KEYS = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    },
    "longrope": {
        "factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor",
    },
}  # fmt: skip


def read_rope(file: ConfigFile, row: FamilyRow) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and the like of a BackboneConfig."""
    if not row.rope_kinds:
        return {}
    new, old = _object(file, NEW), _object(file, OLD)
    found = _read(file, row, new, NEW) if new else _read(file, row, old, OLD)
    if new:
        _refuse_another_meaning(file, row, old, found)
    return found


def _read(file: ConfigFile, row: FamilyRow, rope: dict[str, Any], key: str) -> dict[str, Any]:
    """Of one spelling."""
    nested = any(name in rope for name in (FULL, SLIDING))
    if not row.rope_by_layer:
        if nested:
            raise file.refuse(key, rope, "this family has one for all layers")
        return _read_one(file, row, rope, key, file.raw.get(row.theta_key, row.rope_theta)) | _share(file, row, rope)
    if key == NEW and not nested:
        raise file.refuse(key, rope, f"it should have {FULL} and {SLIDING}")
    theta = file.raw.get("rope_theta")
    local = file.raw.get(LOCAL, row.window_theta or theta or row.rope_theta)
    full, sliding = (rope.get(FULL) or {}, rope.get(SLIDING) or {}) if nested else (rope, {})
    found = _read_one(file, row, full, key, theta or row.rope_theta)
    windowed = _read_one(file, row, sliding, key, local)
    for each in (full, sliding):
        _share(file, row, each)
    if windowed == found:
        return found
    return found | {"window_rope_theta": windowed["rope_theta"], "window_rope_scaling": windowed["rope_scaling"]}


def _object(file: ConfigFile, key: str) -> dict[str, Any]:
    rope = file.raw.get(key) or {}
    if not isinstance(rope, dict) or not all(isinstance(rope.get(name) or {}, dict) for name in (FULL, SLIDING)):
        raise file.refuse(key, rope, "it should be an object")
    return rope


def _refuse_another_meaning(file: ConfigFile, row: FamilyRow, old: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises UserError where the older keys do not say what was ``found`` in the newer one."""
    other = f"{NEW} says something else, and engines differ in which of the two they take: make both the same"
    old = old.get(FULL) or {} if FULL in old or SLIDING in old else old
    theta, local = found["rope_theta"], found.get("window_rope_theta", found["rope_theta"])
    said = {row.theta_key: theta, row.share_key: found.get("rotary_share", 1.0)}
    said |= {} if row.window_theta is None else {LOCAL: local}
    for key, value in said.items():
        if file.raw.get(key) not in (None, value):
            raise file.refuse(key, file.raw[key], other)
    if not old:
        return
    theirs = _read_one(file, row, old, OLD, theta)
    same = theirs == {"rope_theta": theta, "rope_scaling": found["rope_scaling"]}
    if not same or old.get("partial_rotary_factor") not in (None, found.get("rotary_share", 1.0)):
        raise file.refuse(OLD, old, other)


def _share(file: ConfigFile, row: FamilyRow, rope: dict[str, Any]) -> dict[str, Any]:
    """The part of each head that is turned, where the family has one."""
    given = rope.get("partial_rotary_factor", file.raw.get(row.share_key))
    if row.rotary_share is None:
        if given not in (None, 1.0):
            raise file.refuse("partial_rotary_factor", given, "this family turns whole heads")
        return {}
    return {"rotary_share": file.checked(row.share_key, row.rotary_share if given is None else given, float)}


def _read_one(file: ConfigFile, row: FamilyRow, rope: dict[str, Any], key: str, theta: Any) -> dict[str, Any]:
    theta = file.checked(row.theta_key, rope.get("rope_theta", theta), float)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "su" or (kind == "yarn" and "yarn" not in row.rope_kinds and "longrope" in row.rope_kinds):
        kind = "longrope"  # as Phi-3's first versions called it
    if kind not in row.rope_kinds:
        raise file.refuse(f"{key}.rope_type", kind, f"use one of {', '.join(row.rope_kinds)}")
    unknown = sorted(name for name in rope if name not in OWN | KEYS[kind] and rope[name] is not None)
    if unknown and kind != "default" and unknown != [ORIGINAL]:
        raise file.refuse(f"{key}.{unknown[0]}", rope[unknown[0]], f"rope_type {kind} has no such setting")
    if row.rope_by_layer and rope.get("truncate") is False:
        raise file.refuse(f"{key}.truncate", False, "transformers reads true here, whatever stands there; use true")
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else _scaling(file, row, rope, key, kind)}


def _scaling(file: ConfigFile, row: FamilyRow, rope: dict[str, Any], key: str, kind: str) -> RopeScaling:
    def setting(name: str, number: type[int] | type[float] = float, default: float | None = None) -> Any:
        value = rope.get(name)
        return file.checked(f"{key}.{name}", default if value is None else value, number)

    def optional(name: str) -> float | None:
        return None if rope.get(name) is None else float(setting(name))

    if kind in ("linear", "dynamic"):
        return RopeScaling("linear" if kind == "linear" else "dynamic", setting("factor"))
    context = file.number("max_position_embeddings")
    outside = file.raw.get(ORIGINAL, row.original_positions)  # which engines take before the one inside
    outside = None if outside is None else file.checked(ORIGINAL, outside, int)
    original = setting(ORIGINAL, int, context if outside is None else outside)
    if outside not in (None, original):
        left_out = "" if ORIGINAL in file.raw else ", where it is left out"
        raise file.refuse(f"{key}.{ORIGINAL}", original, f"beside {key} it is {outside}{left_out}: make both the same")
    if kind == "llama3":
        low, high = setting("low_freq_factor"), setting("high_freq_factor")
        return RopeScaling("llama3", setting("factor"), low, high, original)
    factor = setting("factor", float, context / max(original, 1))
    attention = optional("attention_factor")
    if kind == "yarn":
        truncate = True if rope.get("truncate") is None else rope["truncate"]
        if not isinstance(truncate, bool):
            raise file.refuse(f"{key}.truncate", truncate, "it should be true or false")
        return RopeScaling(
            "yarn",
            factor,
            original_max_positions=original,
            attention_factor=attention,
            beta_fast=setting("beta_fast", float, 32.0),
            beta_slow=setting("beta_slow", float, 1.0),
            mscale=optional("mscale"),
            mscale_all_dim=optional("mscale_all_dim"),
            truncate=truncate,
        )
    return RopeScaling(
        "longrope",
        factor,
        original_max_positions=original,
        attention_factor=attention,
        short_factor=_numbers(file, rope, key, "short_factor"),
        long_factor=_numbers(file, rope, key, "long_factor"),
    )


def _numbers(file: ConfigFile, rope: dict[str, Any], key: str, name: str) -> tuple[float, ...]:
    given = rope.get(name)
    if not isinstance(given, list):
        raise file.refuse(f"{key}.{name}", given, "it should be a list of numbers")
    return tuple(file.checked(f"{key}.{name}", number, float) for number in given)


def write_rope(config: BackboneConfig, row: FamilyRow) -> dict[str, Any]:
    """Both spellings."""
    if not row.rope_kinds:
        return {}
    scaling = _written(config.rope_scaling)
    share = {} if row.rotary_share is None else {"partial_rotary_factor": config.rotary_share}
    new: dict[str, Any] = {"rope_type": "default", **scaling, "rope_theta": config.rope_theta, **share}
    old = {row.theta_key: config.rope_theta, "rope_scaling": scaling or None}
    if row.rotary_share is not None:
        old[row.share_key] = config.rotary_share
    if config.rope_scaling is not None and config.rope_scaling.kind == "longrope":
        old["original_max_position_embeddings"] = original = config.rope_scaling.original_max_positions
        if (
            config.rope_scaling.attention_factor is None
            and config.rope_scaling.factor == config.max_positions / original
        ):
            # transformers 4 takes these three for Phi-3 and no other, and derives the rest
            old["rope_scaling"] = {"type": "longrope"} | {
                name: scaling[name] for name in ("short_factor", "long_factor")
            }
    if not row.rope_by_layer:
        return {**old, "rope_parameters": new}
    own = config.window_rope_theta is not None
    theta = config.window_rope_theta if own else config.rope_theta
    windowed = _written(config.window_rope_scaling if own else config.rope_scaling)
    sliding = {"rope_type": "default", **windowed, "rope_theta": theta}
    local = {} if row.window_theta is None else {LOCAL: theta}
    return {**old, **local, "rope_parameters": {FULL: new, SLIDING: sliding}}


def _written(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    settings: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        settings["low_freq_factor"] = scaling.low_freq_factor
        settings["high_freq_factor"] = scaling.high_freq_factor
    if scaling.kind in ("llama3", "yarn", "longrope"):
        settings["original_max_position_embeddings"] = scaling.original_max_positions
    if scaling.kind in ("yarn", "longrope") and scaling.attention_factor is not None:
        settings["attention_factor"] = scaling.attention_factor
    if scaling.kind == "yarn":
        settings |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        more = {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
        settings |= {name: value for name, value in more.items() if value is not None}
    if scaling.kind == "longrope":
        settings |= {"short_factor": list(scaling.short_factor), "long_factor": list(scaling.long_factor)}
    return settings
