"""Small GGUF files of random weights, written by the package ``gguf`` itself and not by anything of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, trainers

from lit_llm.model_sources.pre_tokenizers import RULES

TEXTS = [
    "The house has 12 doors, and it's green.",
    "Das Haus hat 7 Türen.",
    "للبيت بابان ونافذة.",
    "if x == 10: return",
] * 9
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPE = {"layers": 2, "hidden": 64, "heads": 4, "kv": 2, "width": 16, "inner": 96, "context": 128}


def byte_pairs(rule: str, size: int = 320) -> tuple[list[str], list[str]]:
    """Tokens and merges learned from a few texts by llama.cpp's rule of this name."""
    engine = Engine(models.BPE())
    engine.pre_tokenizer = _steps(rule)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(TEXTS, trainer)
    model = json.loads(engine.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def _steps(rule: str) -> Any:
    empty = json.loads(Engine(models.BPE()).to_str())
    empty["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": RULES[rule].steps()}
    return Engine.from_str(json.dumps(empty)).pre_tokenizer


def tensors(architecture: str, rows: int, seed: int = 0, tied: bool = True, **shape: int) -> dict[str, np.ndarray]:
    """Random weights by llama.cpp's names."""
    s, draw = {**SHAPE, **shape}, np.random.default_rng(seed)

    def weights(*sides: int) -> np.ndarray:
        return (draw.standard_normal(sides) * 0.08).astype(np.float32)

    def norm(side: int) -> np.ndarray:
        return (1 + 0.1 * draw.standard_normal(side)).astype(np.float32)

    q, k = s["heads"] * s["width"], s["kv"] * s["width"]
    found = {"token_embd.weight": weights(rows, s["hidden"]), "output_norm.weight": norm(s["hidden"])}
    if not tied:
        found["output.weight"] = weights(rows, s["hidden"])
    for n in range(s["layers"]):
        blk = f"blk.{n}."
        found |= {
            f"{blk}attn_norm.weight": norm(s["hidden"]), f"{blk}ffn_norm.weight": norm(s["hidden"]),
            f"{blk}attn_q.weight": weights(q, s["hidden"]), f"{blk}attn_k.weight": weights(k, s["hidden"]),
            f"{blk}attn_v.weight": weights(k, s["hidden"]), f"{blk}attn_output.weight": weights(s["hidden"], q),
            f"{blk}ffn_gate.weight": weights(s["inner"], s["hidden"]),
            f"{blk}ffn_up.weight": weights(s["inner"], s["hidden"]),
            f"{blk}ffn_down.weight": weights(s["hidden"], s["inner"]),
        }  # fmt: skip
        if architecture == "qwen2":
            found |= {f"{blk}attn_{name}.bias": weights(side) for name, side in (("q", q), ("k", k), ("v", k))}
        if architecture == "qwen3":
            found |= {f"{blk}attn_{name}_norm.weight": norm(s["width"]) for name in ("q", "k")}
    return found


def write(
    path: Path,
    architecture: str = "llama",
    kind: str = "F32",
    rule: str = "qwen2",
    spare: int = 0,
    change: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
    **shape: Any,
) -> Path:
    """``kind``: of the matrices. ``change``: metadata in place of what would be written; None leaves one out."""
    tokens, merges = byte_pairs(rule)
    s = {**SHAPE, **{key: value for key, value in shape.items() if key in SHAPE}}
    kinds = [3 if token in CONTROL else 1 for token in tokens] + [5] * spare
    tokens += [f"[PAD{n}]" for n in range(spare)]
    a = architecture
    values: dict[str, Any] = {
        "general.name": "small", "general.license": "mit", f"{a}.block_count": s["layers"],
        f"{a}.context_length": s["context"], f"{a}.embedding_length": s["hidden"],
        f"{a}.feed_forward_length": s["inner"], f"{a}.attention.head_count": s["heads"],
        f"{a}.attention.head_count_kv": s["kv"], f"{a}.attention.key_length": s["width"],
        f"{a}.attention.value_length": s["width"], f"{a}.rope.dimension_count": s["width"],
        f"{a}.rope.freq_base": 50000.0, f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": rule, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        **(change or {}),
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, a)
    for key, value in values.items():
        add(writer, key, value)
    weights = tensors(a, len(tokens), **shape) | (more or {})
    for name, value in weights.items():
        of = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(value, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """An entry of the head; None: none."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def with_head(source: Path, path: Path, architecture: str, entries: dict[str, Any]) -> Path:
    """The tensors and the tokenizer of a file under another head: ``entries`` below the architecture's name, and no
    other."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, architecture)
    kept = ("general.name", "tokenizer.")
    for key, field in reader.fields.items():
        if key.startswith(kept):
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    for key, value in entries.items():
        add(writer, f"{architecture}.{key}", value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
