"""The model in a GGUF file as config.json and as tensors by Hugging Face's names, in their order of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_llm.model_sources.gguf_header import GGUFHead, TensorRecord, gguf_package
from lit_llm.model_sources.rope_factors import llama3_scaling

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's, by what it is called there."""

    model_type: str
    language: str  # the class in config.json
    rotates_pairs: bool = False  # llama's: neighbours are a pair, and the rows of q and k are in that order
    bias: bool = False  # of q, k and v, always; else where the file has them
    qk_norm: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", rotates_pairs=True),  # Mistral's too
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", bias=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", qk_norm=True),
}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = "rope_freqs.weight"
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "finetuned")  # below rope.scaling
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")


@dataclass(frozen=True)
class Tensor:
    """One tensor of the model folder: its name there, and how it is made from the file's."""

    name: str
    record: TensorRecord
    heads: int = 0  # of rows that are to be put back into the order of halves; 0: they are as they should be

    @property
    def dtype(self) -> str:
        """As safetensors calls it: float types stay what they are, what is quantised becomes float32."""
        kind = gguf_package().GGMLQuantizationType(self.record.kind).name
        return kind if kind in ("F32", "F16", "BF16", "F64") else "F32"

    def read(self, data: Array) -> Array:
        """The tensor from the file's bytes ``data`` (uint8): float32, float16 or float64; BF16 as its uint16."""
        raw = data[self.record.begin : self.record.begin + self.record.bytes]
        plain = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
        kind = gguf_package().GGMLQuantizationType(self.record.kind)
        if kind.name in plain:
            found = raw.view(plain[kind.name]).reshape(self.record.shape)
        else:
            rows = raw.reshape(*self.record.shape[:-1], -1)
            found = gguf_package().quants.dequantize(rows, kind).reshape(self.record.shape)
        return halves(found, self.heads) if self.heads else found


def halves(pairs: Array, heads: int) -> Array:
    """Rows (heads x width, ...) from llama.cpp's order, pairs of neighbours, to Hugging Face's, two halves."""
    rows = pairs.shape[0]
    return pairs.reshape(heads, rows // heads // 2, 2, *pairs.shape[1:]).swapaxes(1, 2).reshape(pairs.shape)


def neighbours(rows: Array, heads: int) -> Array:
    """The way back of ``halves``."""
    count = rows.shape[0]
    return rows.reshape(heads, 2, count // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def model_of(head: GGUFHead, data: Array) -> tuple[dict[str, Any], list[Tensor]]:
    """What goes into config.json, and the tensors.

    Raises UserError for an architecture that is not supported, and for tensors that are missing, unexpected, of another
    shape than the metadata says, or of a type that cannot be read.
    """
    name = head.needed("general.architecture", str)
    if name not in ARCHITECTURES:
        head.refuse(f"general.architecture={name!r} is not supported; read are {', '.join(ARCHITECTURES)}")
    if head.value("split.count", int, 1) > 1:
        head.refuse("is one part of several; join them first (llama-gguf-split --merge FIRST_PART WHOLE.gguf)")
    kind = ARCHITECTURES[name]
    config = _config(head, name, kind, data)
    return config, _tensors(head, kind, config)


def _config(head: GGUFHead, name: str, kind: Architecture, data: Array) -> dict[str, Any]:
    def number(key: str, default: int | None = None) -> int:
        found: int = head.value(f"{name}.{key}", int, default) if default else head.needed(f"{name}.{key}", int)
        if not 0 < found < 2**31:
            head.refuse(f"{name}.{key}={found} should be from 1 to {2**31 - 1}")
        return found

    if head.value(f"{name}.expert_count", int, 0):
        head.refuse(f"{name}.expert_count={head.values[f'{name}.expert_count']}: mixtures of experts are not supported")
    _same_in_all_layers(head, name)
    if not head.value(f"{name}.attention.causal", bool, True):
        head.refuse(f"{name}.attention.causal=false: each token sees those behind it too, so that it writes no text")
    hidden, heads = number("embedding_length"), number("attention.head_count")
    width = number("attention.key_length", max(1, hidden // heads))
    if head.value(f"{name}.attention.value_length", int, width) != width:
        head.refuse(f"{name}.attention.value_length is unlike key_length={width}, which is not supported")
    if head.value(f"{name}.rope.dimension_count", int, width) != width:
        head.refuse(
            f"{name}.rope.dimension_count is unlike the heads' {width}: a part that is rotated is not supported"
        )
    if "token_embd.weight" not in head.tensors:
        head.refuse("holds no token_embd.weight: a file of a vocabulary alone, or damaged; give one with the weights")
    theta, scaling = _rope(head, name, width, data)
    tied = "output.weight" not in head.tensors
    return {
        "architectures": [kind.language], "model_type": kind.model_type,
        "vocab_size": head.tensors["token_embd.weight"].shape[0], "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"), "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": width, "hidden_act": "silu", "max_position_embeddings": number("context_length"),
        "rms_norm_eps": _shortest(head.needed(f"{name}.attention.layer_norm_rms_epsilon", float)),
        "tie_word_embeddings": tied, "attention_bias": kind.bias or "blk.0.attn_q.bias" in head.tensors,
        "rope_theta": theta, "rope_scaling": scaling or None,
        "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": theta}, "use_cache": True,
    }  # fmt: skip


def _same_in_all_layers(head: GGUFHead, name: str) -> None:
    """Numbers of heads or widths that are a list, one of each layer, belong to families that are not supported."""
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        if isinstance(head.values.get(f"{name}.{key}"), list):
            head.refuse(f"{name}.{key} differs from layer to layer, which is not supported")


def _rope(head: GGUFHead, name: str, width: int, data: Array) -> tuple[float, dict[str, Any]]:
    theta = _shortest(head.value(f"{name}.rope.freq_base", float, 10000.0))
    if not (math.isfinite(theta) and theta > 0):
        head.refuse(f"{name}.rope.freq_base={theta} should be above 0")
    kind = head.value(f"{name}.rope.scaling.type", str, "")  # without one a factor is linear's
    factor = _shortest(head.value(f"{name}.rope.scaling.factor", float, 0.0))
    factor = factor or _shortest(head.value(f"{name}.rope.scale_linear", float, 0.0))
    _refuse_other_scaling(head, name, kind)
    if ROPE_FACTORS in head.tensors and kind in ("", "none"):
        record = head.tensors[ROPE_FACTORS]
        found = Tensor(ROPE_FACTORS, record).read(data).astype(np.float64) if record.shape == (width // 2,) else None
        scaling = None if found is None else llama3_scaling(found, theta, width)
        if scaling is None:
            head.refuse(f"{ROPE_FACTORS} is not Llama 3's stretching of frequencies, the only one that is supported")
        return theta, scaling
    if ROPE_FACTORS in head.tensors:
        head.refuse(f"{name}.rope.scaling.type={kind!r} beside {ROPE_FACTORS} is not supported: one of them")
    if kind not in ("", "none", "linear", "yarn"):
        head.refuse(
            f"{name}.rope.scaling.type={kind!r} is not supported: use none, linear or yarn, or Llama 3's factors"
        )
    if kind in ("linear", "yarn") and not factor >= 1:
        head.refuse(f"{name}.rope.scaling.factor={factor} should be at least 1")
    if kind == "yarn":
        return theta, _yarn(head, name, factor)
    return theta, {"rope_type": "linear", "factor": factor} if kind == "linear" or (not kind and factor > 1) else {}


def _yarn(head: GGUFHead, name: str, factor: float) -> dict[str, Any]:
    """llama.cpp multiplies turned queries and keys by 1 + 0.1 ln(factor), as the paper does, and by ``attn_factor``."""
    context = head.needed(f"{name}.context_length", int)
    original = head.value(f"{name}.rope.scaling.original_context_length", int, context)
    if not 0 < original < 2**31:
        head.refuse(f"{name}.rope.scaling.original_context_length={original} should be from 1 to {2**31 - 1}")
    more = head.value(f"{name}.rope.scaling.attn_factor", float, 1.0)
    attention = {} if more == 1 else {"attention_factor": _shortest(more * (1 + 0.1 * math.log(factor)))}
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **attention}


def _refuse_other_scaling(head: GGUFHead, name: str, kind: str) -> None:
    """Whatever else a file says of stretched positions changes what llama.cpp computes."""
    begin = f"{name}.rope.scaling."
    for key in (key for key in head.values if key.startswith(begin)):
        if key.removeprefix(begin) not in _SCALING:
            head.refuse(f"{key}={str(head.values[key])[:40]} is not supported")
    strength = head.value(f"{begin}attn_factor", float, 1.0)
    if strength != 1 and (kind != "yarn" or not strength > 0):
        head.refuse(f"{begin}attn_factor={strength:g} is not supported: above 0 and with type yarn, or 1")


def _shortest(value: float) -> float:
    """The number that somebody wrote before it was kept in 32 bits: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _tensors(head: GGUFHead, kind: Architecture, config: Mapping[str, Any]) -> list[Tensor]:
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    q, k, rows, layers = heads * width, kv * width, config["vocab_size"], config["num_hidden_layers"]
    if layers > len(head.tensors):
        head.refuse(f"block_count={layers}, but the weights are missing beyond a few layers; fetch it again")
    if width % 2:
        head.refuse(f"heads of a width of {width} cannot be rotated; fetch it again")
    turned = {"attn_q": heads, "attn_k": kv} if kind.rotates_pairs else {}
    shapes = {
        "attn_norm": (hidden,), "attn_q": (q, hidden), "attn_k": (k, hidden), "attn_v": (k, hidden),
        "attn_output": (hidden, q), "ffn_norm": (hidden,), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }  # fmt: skip
    shapes |= {"attn_q_norm": (width,), "attn_k_norm": (width,)} if kind.qk_norm else {}
    biased = _ATTENTION[:3] if kind.bias else _ATTENTION if config["attention_bias"] else ()
    expected: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for n in range(layers):
        for name, shape in shapes.items():
            theirs = f"model.layers.{n}.{LAYER[name]}"
            expected[f"blk.{n}.{name}.weight"] = f"{theirs}.weight", shape, turned.get(name, 0)
            if name in biased:
                expected[f"blk.{n}.{name}.bias"] = f"{theirs}.bias", shape[:1], turned.get(name, 0)
    tops = {"token_embd": (rows, hidden), "output_norm": (hidden,)}
    tops |= {} if config["tie_word_embeddings"] else {"output": (rows, hidden)}
    expected |= {f"{name}.weight": (f"{TOP[name]}.weight", shape, 0) for name, shape in tops.items()}
    return [_tensor(head, name, *wanted) for name, wanted in _complete(head, expected).items()]


def _complete(head: GGUFHead, expected: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in expected if name not in head.tensors]
    other = [name for name in head.tensors if name not in expected and name != ROPE_FACTORS]
    for names, what in ((missing, "is missing"), (other, "is a tensor that its architecture has not here")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            head.refuse(f"{names[0]} {what}{more}; use a file that llama.cpp's converter made of a supported model")
    return expected


def _tensor(head: GGUFHead, name: str, theirs: str, shape: tuple[int, ...], heads: int) -> Tensor:
    record = head.tensors[name]
    if record.shape != shape:
        head.refuse(f"{name} has the shape {list(record.shape)}, its metadata ask for {list(shape)}")
    known = readable()
    if record.kind not in known:
        kind = gguf_package().GGMLQuantizationType(record.kind).name
        head.refuse(f"{name} is {kind}, which gguf cannot make floats of; it knows {', '.join(known.values())}")
    return Tensor(theirs, record, heads)


def readable() -> dict[int, str]:
    """The types that weights are read from, by ggml's number."""
    package = gguf_package()
    quants: Callable[..., Any] = package.quants.dequantize
    found = {}
    for kind, (_, size) in package.GGML_QUANT_SIZES.items():
        if kind.name in ("F64", "BF16"):
            found[int(kind)] = kind.name
            continue
        try:
            with np.errstate(all="ignore"):
                quants(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found[int(kind)] = kind.name
    return found
