"""The model in a GGUF file as config.json and as tensors by Hugging Face's names, in their order of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_llm.model_sources.gguf_architectures import FAMILIES, OWN, USUAL, Entry, GGUFFamily
from lit_llm.model_sources.gguf_forms import Array, Heads
from lit_llm.model_sources.gguf_header import GGUFHead
from lit_llm.model_sources.gguf_rope import BASE, DIMENSIONS, SCALING, WINDOW_BASE, read_rope, shortest, tensors_read
from lit_llm.model_sources.gguf_tensors import Tensor, has_biases, tensors_of

WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
ARCHITECTURES: Mapping[str, str] = {row.architecture: family for family, row in list(FAMILIES.items())[::-1]}
"""llama.cpp's to the first family that has it, which its files are read as."""
READ = (WINDOW, PATTERN, BASE, WINDOW_BASE, DIMENSIONS, "rope.scale_linear", "attention.causal")
HARMLESS = ("vocab_size", "tensor_data_layout", "pooling_type", "classifier.output_labels", "n_ctx_orig")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.clamp_kqv": (0.0,), "attention.max_alibi_bias": (0.0,), "attention.scale": (0.0,),
    "attention.temperature_scale": (0.0,), "attn_logit_softcapping": (0.0,), "embedding_scale": (0.0, 1.0),
    "expert_count": (0,), "expert_gating_func": (0, 1), "expert_group_count": (0, 1), "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,), "expert_used_count": (0,), "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0), "final_logit_softcapping": (0.0,), "leading_dense_block_count": (0,),
    "logit_scale": (0.0, 1.0), "nextn_predict_layers": (0,), "residual_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
}  # fmt: skip
"""Entries that an architecture does not read here, and the values with which they change nothing."""


def model_of(head: GGUFHead, data: Array) -> tuple[dict[str, Any], list[Tensor]]:
    """What goes into config.json, and the tensors.

    Raises UserError for an architecture that is not supported, for an entry of the head that would change what is
    computed and is not read, and for tensors that are missing, unexpected, of another shape than the metadata says, or
    of a type that cannot be read.
    """
    row = _row(head)
    if head.value("split.count", int, 1) > 1:
        head.refuse("is one part of several; join them first (llama-gguf-split --merge FIRST_PART WHOLE.gguf)")
    _refuse_unread(head, row)
    numbers = _numbers(head, row)
    heads = Heads(numbers["attention.head_count"], numbers["attention.head_count_kv"])
    width = numbers["attention.key_length"]
    if width % 2:
        head.refuse(f"heads of a width of {width} cannot be rotated; fetch it again")
    layers, context, experts = numbers["block_count"], numbers["context_length"], numbers.get("expert_count", 0)
    if layers > len(head.tensors):
        head.refuse(f"block_count={layers}, but the weights are missing beyond a few layers; fetch it again")
    if experts and ((first := head.tensors.get("blk.0.ffn_gate_exps.weight")) is None or first.shape[0] != experts):
        head.refuse(f"expert_count={experts}, but blk.0.ffn_gate_exps.weight does not hold as many; fetch it again")
    biased = row.always_biased or (bool(row.biased) and has_biases(head))
    config = {
        "architectures": [row.language], "model_type": row.model_type,
        "vocab_size": head.tensors["token_embd.weight"].shape[0],
        **{entry.setting: numbers[entry.key] for entry in row.usual()},
        "tie_word_embeddings": "output.weight" not in head.tensors, "attention_bias": biased, **row.fixed,
        **{name: head.value(OWN + name, str, row.fixed[name]) for name in row.spoken},
        **_windows(head, row, layers, context), **_scores(row, numbers),
        **read_rope(head, row, width, context, data), "use_cache": True,
    }  # fmt: skip
    inner, expert = numbers["feed_forward_length"], numbers.get("expert_feed_forward_length", 0)
    q, kv = heads.queries * width, heads.keys * width
    sizes = {
        "rows": config["vocab_size"], "hidden": numbers["embedding_length"], "inner": inner, "both": 2 * inner,
        "context": context, "head": width, "q": q, "kv": kv, "qkv": q + 2 * kv,
        "experts": experts, "expert": expert,
    }  # fmt: skip
    return config, tensors_of(head, row, sizes, heads, layers, tensors_read(row))


def _row(head: GGUFHead) -> GGUFFamily:
    if (kind := head.value("general.type", str, "model")) != "model":
        head.refuse(
            f"general.type={kind[:40]!r}: holds no language model but what belongs to one; give the model's file"
        )
    name = head.needed("general.architecture", str)
    if name not in ARCHITECTURES:
        head.refuse(f"general.architecture={name!r} is not supported; read are {', '.join(sorted(ARCHITECTURES))}")
    if "token_embd.weight" not in head.tensors:
        head.refuse("holds no token_embd.weight: a file of a vocabulary alone, or damaged; give one with the weights")
    olmo3 = name == "olmo2" and head.value(f"{name}.{WINDOW}", int, 0)
    return FAMILIES["olmo3" if olmo3 else ARCHITECTURES[name]]


def _refuse_unread(head: GGUFHead, row: GGUFFamily) -> None:
    """Raises UserError for entries that are not known here: they may change what is computed."""
    a = f"{row.architecture}."
    if not head.value(f"{a}attention.causal", bool, True):
        head.refuse(f"{a}attention.causal=false: each token sees those behind it too, so that it writes no text")
    known = {entry.key for entry in (*USUAL, *row.usual())}
    for key in (key for key in head.values if key.startswith(a)):
        name, value = key.removeprefix(a), head.values[key]
        if name in known or name in READ or name in HARMLESS or name.startswith(SCALING):
            continue
        if name == "expert_count" and value:
            head.refuse(f"{key}={value}: mixtures of experts are not supported in this architecture")
        if name not in NEUTRAL:
            head.refuse(f"{key}={str(value)[:40]} is not known here, and may change what the model computes")
        if value not in NEUTRAL[name]:
            head.refuse(f"{key}={str(value)[:40]} is not supported in this architecture")


def _numbers(head: GGUFHead, row: GGUFFamily) -> dict[str, Any]:
    """The values of the table's entries, by their keys; of shapes whole numbers above 0."""
    found: dict[str, Any] = {}
    shapes = {entry.key for entry in (*USUAL, *row.usual()) if entry.kind is int}
    for entry in (*USUAL, *row.usual()):  # sizes, also where config.json has no word for them
        if entry.key not in found:
            found[entry.key] = _value(head, row, entry, found)
        if entry.key in shapes and not 0 < found[entry.key] < 2**31:
            head.refuse(f"{row.architecture}.{entry.key}={found[entry.key]} should be from 1 to {2**31 - 1}")
    heads, keys = found["attention.head_count"], found["attention.head_count_kv"]
    width = found["attention.key_length"]
    if heads % keys:
        head.refuse(f"{row.architecture}.attention.head_count={heads} is no multiple of head_count_kv={keys}")
    if "num_key_value_heads" in row.names and keys != heads:
        head.refuse(f"{row.architecture}.attention.head_count_kv={keys} is unlike head_count={heads}")
    if found["attention.value_length"] != width:
        head.refuse(f"{row.architecture}.attention.value_length is unlike key_length={width}, which is not supported")
    if "head_dim" in row.names and width * heads != found["embedding_length"]:
        head.refuse(f"{row.architecture}.attention.key_length={width} is no share of embedding_length among the heads")
    return found


def _value(head: GGUFHead, row: GGUFFamily, entry: Entry, before: Mapping[str, Any]) -> Any:
    key = f"{row.architecture}.{entry.key}"
    if isinstance(head.values.get(key), list):
        head.refuse(f"{key} differs from layer to layer, which is not supported")
    value = head.needed(key, entry.kind) if entry.default is None else head.value(key, entry.kind)
    if entry.kind is float and value is not None:
        value = shortest(value)
    used = value != 0 or entry.kind is not float or entry.default is None  # 0: as if it were not there
    if value is not None and used:
        return value
    if entry.default == "none":
        return None
    if entry.default == "width":
        return max(1, before["embedding_length"] // max(1, before["attention.head_count"]))
    if entry.default == "usual scale":
        return before["attention.key_length"] ** -0.5
    return before[entry.default] if isinstance(entry.default, str) else entry.default


def _windows(head: GGUFHead, row: GGUFFamily, layers: int, context: int) -> dict[str, Any]:
    key = f"{row.architecture}.{WINDOW}"
    window: int = head.value(key, int, row.window)
    if not 0 <= window < 2**31:
        head.refuse(f"{key}={window} should be from 1 to {2**31 - 1}, or 0")
    if row.one_window:
        return {"sliding_window": window or None}
    if row.every is None:
        if 0 < window < context:
            head.refuse(f"{key}={window} is not supported in this architecture; 0, or context_length={context}, is")
        return {}
    windowed = _pattern(head, row, layers) if window else [False] * layers
    kinds = ["sliding_attention" if one else "full_attention" for one in windowed]
    return {"sliding_window": window or None, "layer_types": kinds}


def _pattern(head: GGUFHead, row: GGUFFamily, layers: int) -> list[bool]:
    """Which layers have the window: a file says none, every how many layers one sees all, or it for each layer."""
    key = f"{row.architecture}.{PATTERN}"
    given = head.values.get(key)
    if given is None:
        return [not row.sees_all(layer) for layer in range(layers)]
    if isinstance(given, list):
        if len(given) != layers or not all(one in (0, 1) for one in given):
            head.refuse(f"{key} should hold true or false for each of {layers} layers")
        return [bool(one) for one in given]
    every = head.value(key, int)
    if not every >= 0:
        head.refuse(f"{key}={every} should be above 0")
    return [every == 0 or (layer + 1) % every != 0 for layer in range(layers)]


def _scores(row: GGUFFamily, numbers: Mapping[str, Any]) -> dict[str, Any]:
    if not row.scored:
        return {}
    width = row.score_width(
        numbers["block_count"], numbers["embedding_length"], numbers["attention.head_count"],
        numbers["attention.key_length"],
    )  # fmt: skip
    return {"query_pre_attn_scalar": int(width) if width == int(width) else width}
