"""Rotary positions in a GGUF file as the settings of config.json: the base, the part that is turned, the stretching."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lit_llm.model_sources.gguf_architectures import GGUFFamily
from lit_llm.model_sources.gguf_header import GGUFHead
from lit_llm.model_sources.gguf_tensors import floats
from lit_llm.model_sources.rope_factors import llama3_scaling, longrope_strength, yarn_strength

DIVISORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
BASE, DIMENSIONS, WINDOW_BASE = "rope.freq_base", "rope.dimension_count", "rope.freq_base_swa"
SCALING = "rope.scaling."
_OLD_FACTOR = "rope.scale_linear"
_BETAS = {"yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0}
_USUAL_THETA = 10000.0  # llama.cpp's, where a file does not say


def read_rope(head: GGUFHead, row: GGUFFamily, width: int, context: int, data: Any) -> dict[str, Any]:
    """Settings of config.json. ``width``: of a head; ``data``: the file's bytes.

    Raises UserError for what llama.cpp computes and nothing here does.
    """
    if row.rope_kinds is None:
        return {}
    a = row.architecture
    theta = _base(head, f"{a}.{BASE}", _USUAL_THETA)
    scaling = _scaling(head, row, width, theta, context, data)
    share = _share(head, row, width)
    rope = {"rope_type": "default", **scaling, "rope_theta": theta, **share}
    found = {row.theta_key: theta, "rope_scaling": scaling or None, "rope_parameters": rope}
    if share:
        found[str(row.share_key)] = share["partial_rotary_factor"]
    if scaling.get("rope_type") == "longrope":
        found["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    windowed = _base(head, f"{a}.{WINDOW_BASE}", row.window_theta or theta)
    if not row.rope_by_layer:
        if windowed != theta:
            head.refuse(f"{a}.{WINDOW_BASE}={windowed:g} is unlike freq_base={theta:g}, which is not supported")
        return found
    local = {} if row.window_theta is None else {"rope_local_base_freq": windowed}
    sliding = {"rope_type": "default", "rope_theta": windowed}
    return {**found, **local, "rope_parameters": {"full_attention": rope, "sliding_attention": sliding}}


def tensors_read(row: GGUFFamily) -> set[str]:
    """The tensors of a file that belong to its positions."""
    kinds = row.rope_kinds or ()
    return ({DIVISORS} if "llama3" in kinds else set()) | ({LONG, SHORT} if "longrope" in kinds else set())


def _base(head: GGUFHead, key: str, default: float) -> float:
    theta = shortest(head.value(key, float, default))
    if not (math.isfinite(theta) and theta > 0):
        head.refuse(f"{key}={theta} should be above 0")
    return theta


def _share(head: GGUFHead, row: GGUFFamily, width: int) -> dict[str, float]:
    key = f"{row.architecture}.{DIMENSIONS}"
    turned = head.value(key, int, width)
    if row.share_key is None:
        if turned != width:
            head.refuse(f"{key} is unlike the heads' {width}: a part that is rotated is not supported")
        return {}
    if not 0 < turned <= width or turned % 2:
        head.refuse(f"{key}={turned} should be even, and from 2 to the heads' {width}")
    share = turned / width
    return {"partial_rotary_factor": share if int(width * share) == turned else math.nextafter(share, 2)}


def _scaling(head: GGUFHead, row: GGUFFamily, width: int, theta: float, context: int, data: Any) -> dict[str, Any]:
    a, kinds = row.architecture, row.rope_kinds or ()
    kind = head.value(f"{a}.{SCALING}type", str, "")  # without one a factor is linear's
    factor = shortest(head.value(f"{a}.{SCALING}factor", float, 0.0))
    factor = factor or shortest(head.value(f"{a}.{_OLD_FACTOR}", float, 0.0))
    _refuse_others(head, row, kind)
    if kind == "" and factor > 1:
        kind = "linear"
    for name, needed in ((DIVISORS, "llama3"), (LONG, "longrope"), (SHORT, "longrope")):
        if name in head.tensors and needed in kinds:
            if kind not in ("", "none", needed):
                head.refuse(f"{a}.rope.scaling.type={kind!r} beside {name} is not supported: one of them")
            if needed == "llama3":
                return _llama3(head, width, theta, data)
            return _longrope(head, row, width, context, data)
    if kind in ("", "none"):
        return {}
    if kind not in kinds or kind in ("llama3", "longrope"):
        can = ["none", *(one for one in kinds if one not in ("llama3", "longrope"))]
        factors = ", or Llama 3's factors" if "llama3" in kinds else ""
        head.refuse(f"{a}.rope.scaling.type={kind!r} is not supported: use {' or '.join(can)}{factors}")
    if not factor >= 1:
        head.refuse(f"{a}.rope.scaling.factor={factor} should be at least 1")
    return _yarn(head, row, factor, context) if kind == "yarn" else {"rope_type": "linear", "factor": factor}


def _llama3(head: GGUFHead, width: int, theta: float, data: Any) -> dict[str, Any]:
    record = head.tensors[DIVISORS]
    found = floats(record, data).astype(np.float64) if record.shape == (width // 2,) else None
    scaling = None if found is None else llama3_scaling(found, theta, width)
    if scaling is None:
        head.refuse(f"{DIVISORS} is not Llama 3's stretching of frequencies, the only one that is supported")
    return scaling


def _longrope(head: GGUFHead, row: GGUFFamily, width: int, context: int, data: Any) -> dict[str, Any]:
    """Two tensors of divisors. Published files say no type beside them."""
    a = row.architecture
    pairs = head.value(f"{a}.{DIMENSIONS}", int, width) // 2
    both: dict[str, Any] = {}
    for name, setting in ((SHORT, "short_factor"), (LONG, "long_factor")):
        record = head.tensors.get(name)
        if record is None or record.shape != (pairs,):
            head.refuse(f"{name} should be there with {pairs} divisors, one for each turned pair of a head")
        both[setting] = [shortest(number) for number in floats(record, data)]
    original = _original(head, row, needed=True)
    strength, usual = head.value(f"{a}.{SCALING}attn_factor", float, 1.0), longrope_strength(context, original)
    attention = {} if math.isclose(strength, usual, rel_tol=1e-6) else {"attention_factor": shortest(strength)}
    return {
        "rope_type": "longrope", "factor": context / original, "original_max_position_embeddings": original,
        **both, **attention,
    }  # fmt: skip


def _yarn(head: GGUFHead, row: GGUFFamily, factor: float, context: int) -> dict[str, Any]:
    """``attn_factor`` is by how much more than the paper's strength it is; ``yarn_attn_factor``, which the converter
    writes, is config.json's ``attention_factor``."""
    begin = f"{row.architecture}.{SCALING}"
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    found["original_max_position_embeddings"] = _original(head, row, default=context)
    for key, usual in _BETAS.items():
        if (turns := shortest(head.value(begin + key, float, usual))) != usual:
            found[key.removeprefix("yarn_")] = turns
    more, whole = head.value(f"{begin}attn_factor", float, 1.0), head.value(f"{begin}yarn_attn_factor", float)
    if more != 1:
        found["attention_factor"] = shortest(more * yarn_strength(factor))
    elif whole is not None and not math.isclose(whole, yarn_strength(factor), rel_tol=1e-6):
        found["attention_factor"] = shortest(whole)
    return found


def _original(head: GGUFHead, row: GGUFFamily, default: int = 0, needed: bool = False) -> int:
    key = f"{row.architecture}.{SCALING}original_context_length"
    original: int = head.needed(key, int) if needed else head.value(key, int, default)
    if not 0 < original < 2**31:
        head.refuse(f"{key}={original} should be from 1 to {2**31 - 1}")
    return original


def _refuse_others(head: GGUFHead, row: GGUFFamily, kind: str) -> None:
    """Whatever else a file says of stretched positions changes what llama.cpp computes."""
    begin = f"{row.architecture}.{SCALING}"
    yarn = {**_BETAS, "yarn_attn_factor": None, "yarn_ext_factor": 1.0}  # with yarn; and the values that change nothing
    for key in (key for key in head.values if key.startswith(begin)):
        name = key.removeprefix(begin)
        if name in ("type", "factor", "original_context_length", "attn_factor"):
            continue
        value = head.value(key, bool) if name == "finetuned" else head.value(key, float)
        if name == "finetuned" and (value or row.architecture != "granite"):  # there it switches positions off
            continue
        if name == "yarn_log_multiplier" and value == 0:
            continue
        if name in yarn and (value == yarn[name] or (kind == "yarn" and name != "yarn_ext_factor" and value > 0)):
            continue
        head.refuse(f"{key}={str(head.values[key])[:40]} is not supported")
    strength = head.value(f"{begin}attn_factor", float, 1.0)
    if strength != 1 and (not strength > 0 or (kind != "yarn" and LONG not in head.tensors)):
        head.refuse(f"{begin}attn_factor={strength:g} is not supported: above 0 and with type yarn, or 1")
    whole = head.value(f"{begin}yarn_attn_factor", float)
    if kind == "yarn" and strength != 1 and whole is not None:
        head.refuse(f"{begin}attn_factor={strength:g} beside yarn_attn_factor={whole:g} is not supported: one of them")


def shortest(value: float) -> float:
    """The number that somebody wrote before it was kept in 32 bits: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(value)))
