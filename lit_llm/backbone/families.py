"""The table of families: a Hugging Face config.json to a BackboneConfig and back.

One row per family says what its architectures are called and what its readers assume where a key is left out. Newer
transformers write rotary settings as ``rope_parameters``; older engines read ``rope_theta`` and ``rope_scaling``. Both
are read, both are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lit_llm.backbone.config import BackboneConfig, Family, RopeScaling
from lit_llm.errors import UserError
from lit_llm.runtime.model_folder import refuse_pointer

Head = Literal["language", "score"]


@dataclass(frozen=True)
class FamilyRow:
    language: str  # architecture of the language model
    score: str  # architecture of the reward model
    head_dim: int | None = None  # where config.json has none; None: hidden_size / heads
    kv_heads: int | None = None  # likewise; None: as many as heads
    sliding_window: int | None = None  # likewise
    window_switch: bool = False  # the window counts only with use_sliding_window
    bias: bool | None = None  # attention bias fixed by the family; None: attention_bias says


FAMILIES: Mapping[Family, FamilyRow] = {
    "qwen3": FamilyRow("Qwen3ForCausalLM", "Qwen3ForSequenceClassification", 128, 32, window_switch=True),
    "qwen2": FamilyRow("Qwen2ForCausalLM", "Qwen2ForSequenceClassification", None, 32, window_switch=True, bias=True),
    "llama": FamilyRow("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "mistral": FamilyRow("MistralForCausalLM", "MistralForSequenceClassification", None, 8, 4096, bias=False),
}


class ConfigFile:
    """A config.json, whose complaints name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_pointer(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a model folder has config.json and model.safetensors") from None
        except (OSError, ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
            raise UserError(f"{path}: damaged, not readable as JSON ({_one_line(error)})") from None
        if not isinstance(raw, dict):
            raise UserError(f"{path}: holds a {type(raw).__name__}, should hold an object of settings")
        self.raw: dict[str, Any] = raw

    def number(self, key: str, kind: type[int] | type[float] = int, default: float | None = None) -> Any:
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{self.path}: {key} is missing")
        return self.checked(key, value, kind)

    def checked(self, key: str, value: Any, kind: type[int] | type[float]) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))):
            raise UserError(f"{self.path}: {key}={value!r} should be {'an integer' if kind is int else 'a number'}")
        if whole and abs(value) >= 2**31:
            raise UserError(f"{self.path}: {key}={value} should be below {2**31}")
        return kind(value)

    def refuse(self, key: str, value: Any, accepted: str) -> UserError:
        return UserError(f"{self.path}: {key}={value!r} is not supported: {accepted}")


def read_config(path: Path) -> tuple[BackboneConfig, Head, dict[str, Any]]:
    """The backbone that a config.json describes, what head it has, and its raw settings. Raises UserError."""
    file = ConfigFile(path)
    family, head = _architecture(file)
    _refuse_unsupported(file)
    row = FAMILIES[family]
    heads, hidden = file.number("num_attention_heads"), file.number("hidden_size")
    theta, scaling = _rope(file)
    try:
        config = BackboneConfig(
            family=family,
            vocab_size=file.number("vocab_size"),
            hidden_size=hidden,
            num_layers=file.number("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=file.number("num_key_value_heads", default=row.kv_heads or heads),
            head_dim=file.number("head_dim", default=row.head_dim or hidden // max(heads, 1)),
            intermediate_size=file.number("intermediate_size"),
            max_positions=file.number("max_position_embeddings"),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=file.number("rms_norm_eps", float, 1e-6),
            attention_bias=bool(file.raw.get("attention_bias", False)) if row.bias is None else row.bias,
            tie_embeddings=bool(file.raw.get("tie_word_embeddings", False)),
            sliding_window=_sliding_window(file, row),
            initializer_range=file.number("initializer_range", float, 0.02),
        )
    except UserError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else UserError(f"{path}: {text}") from None
    return config, head, file.raw


def _architecture(file: ConfigFile) -> tuple[Family, Head]:
    named = file.raw.get("architectures") or []
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    for family, row in FAMILIES.items():
        if name == row.language:
            return family, "language"
        if name == row.score:
            return family, "score"
    accepted = ", ".join(name for row in FAMILIES.values() for name in (row.language, row.score))
    raise file.refuse("architectures", named, f"use one of {accepted}")


def _refuse_unsupported(file: ConfigFile) -> None:
    raw = file.raw
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise file.refuse("hidden_act", raw["hidden_act"], "use silu")
    if raw.get("mlp_bias"):
        raise file.refuse("mlp_bias", raw["mlp_bias"], "use false")
    if raw.get("quantization_config"):
        raise file.refuse("quantization_config", "...", "use the folder of unquantised weights")


def _rope(file: ConfigFile) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from ``rope_parameters`` if there, else from ``rope_theta`` and ``rope_scaling``."""
    key = "rope_parameters" if file.raw.get("rope_parameters") else "rope_scaling"
    rope = file.raw.get(key) or {}
    if not isinstance(rope, dict):
        raise file.refuse(key, rope, "it should be an object")
    theta = rope.get("rope_theta", file.raw.get("rope_theta", 10000.0))
    theta = file.checked("rope_theta", theta, float)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default" and rope.get("partial_rotary_factor", 1.0) == 1.0:
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", file.checked(f"{key}.factor", rope.get("factor"), float))
    if kind != "llama3":
        raise file.refuse(f"{key}.rope_type", kind, "use default, linear or llama3")

    def setting(name: str, number: type[int] | type[float]) -> Any:
        return file.checked(f"{key}.{name}", rope.get(name), number)

    return theta, RopeScaling(
        "llama3",
        setting("factor", float),
        setting("low_freq_factor", float),
        setting("high_freq_factor", float),
        setting("original_max_position_embeddings", int),
    )


def _sliding_window(file: ConfigFile, row: FamilyRow) -> int | None:
    window = file.raw.get("sliding_window", row.sliding_window)
    if row == FAMILIES["llama"] or window is None:
        return None
    window = file.checked("sliding_window", window, int)
    layers = file.number("num_hidden_layers")
    kinds = file.raw.get("layer_types")
    if kinds is None:
        first = file.raw.get("max_window_layers", 28) if row.window_switch else 0
        on = bool(file.raw.get("use_sliding_window", False)) if row.window_switch else True
        kinds = ["sliding_attention" if on and layer >= first else "full_attention" for layer in range(layers)]
    if len(set(kinds)) > 1 or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise file.refuse("layer_types", sorted(set(kinds)), "all layers should be of one kind, full or sliding")
    return window if kinds[:1] == ["sliding_attention"] else None


def write_config(config: BackboneConfig, head: Head) -> dict[str, Any]:
    """The settings of a config.json that transformers, vLLM and llama.cpp read, without token ids and dtype."""
    row = FAMILIES[config.family]
    settings: dict[str, Any] = {
        "architectures": [row.language if head == "language" else row.score],
        "model_type": config.family,
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
    settings |= _rope_settings(config)
    if config.family != "llama":
        settings["sliding_window"] = config.sliding_window
    if row.window_switch:
        windowed = config.sliding_window is not None
        settings["use_sliding_window"] = windowed
        settings["max_window_layers"] = 0 if windowed else config.num_layers
        settings["layer_types"] = ["sliding_attention" if windowed else "full_attention"] * config.num_layers
    if head == "score":
        settings |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    return settings


def _rope_settings(config: BackboneConfig) -> dict[str, Any]:
    scaling: dict[str, Any] = {}
    if config.rope_scaling is not None:
        scaling = {"rope_type": config.rope_scaling.kind, "factor": config.rope_scaling.factor}
        if config.rope_scaling.kind == "llama3":
            scaling["low_freq_factor"] = config.rope_scaling.low_freq_factor
            scaling["high_freq_factor"] = config.rope_scaling.high_freq_factor
            scaling["original_max_position_embeddings"] = config.rope_scaling.original_max_positions
    new = {"rope_type": "default", **scaling, "rope_theta": config.rope_theta}
    return {"rope_theta": config.rope_theta, "rope_scaling": scaling or None, "rope_parameters": new}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
