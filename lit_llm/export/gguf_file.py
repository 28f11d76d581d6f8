"""A model folder as a GGUF file: tensor by tensor, so that one is in memory at a time, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.families import read_config
from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.transformers_folder import is_of_transformers
from lit_llm.backbone.weights import names_in, same_tensor, weight_files
from lit_llm.errors import UserError
from lit_llm.export.tokenizer_metadata import tokenizer_metadata
from lit_llm.model_sources.gguf_header import gguf_package
from lit_llm.model_sources.gguf_model import ARCHITECTURES, LAYER, ROPE_FACTORS, TOP, neighbours
from lit_llm.model_sources.rope_factors import llama3_factors
from lit_llm.runtime.atomic_files import beside
from lit_llm.runtime.model_folder import check_model_folder, check_recorded
from lit_llm.runtime.progress_bars import Bar
from lit_llm.text.tokenizer import Tokenizer

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"  # in the files of every family that GGUF has here
Quantization = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
BLOCK = 32  # weights of one scale, in all of these that have scales
FINE = "q8_0"  # of embedding and head where the rest has fewer bits, as llama.cpp's own tool does it
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}  # ggml's
_ARCHITECTURE = {"mistral": "llama"}  # of families that llama.cpp has under another's name
_HALF = 65504.0  # float16's largest


@dataclass(frozen=True)
class Source:
    """What a GGUF tensor is made from: one of the folder's, and how its rows are put in llama.cpp's order."""

    file: Path
    name: str
    shape: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class Model:
    """A model folder as far as GGUF has a form for it."""

    folder: Path
    config: BackboneConfig
    architecture: str
    tensors: Mapping[str, Source]  # by GGUF's names

    @property
    def context(self) -> int:
        """llama.cpp knows no window in these architectures: within the window's length all is as trained."""
        return min(self.config.max_positions, self.config.sliding_window or self.config.max_positions)


def read_model(folder: Path) -> Model:
    """Raises UserError for what is no language model of a family that llama.cpp reads as it is computed here."""
    check_model_folder(folder, "model")
    if is_of_transformers(folder / "config.json"):
        raise UserError(
            f"model={folder}: a family that transformers computes is not written into GGUF here; "
            "export with to=huggingface and use llama.cpp's own converter on that folder"
        )
    config, head, _ = read_config(folder / "config.json")
    if head != "language":
        raise UserError(f"model={folder}: holds a reward model; llama.cpp answers with language models only")
    architecture = _ARCHITECTURE.get(config.family, config.family)
    if architecture not in ARCHITECTURES:
        known = ", ".join([*ARCHITECTURES, *_ARCHITECTURE])
        raise UserError(
            f"model={folder}: the family {config.family} is not written into GGUF here; written are {known}"
        )
    if config.family == "qwen3" and config.attention_bias:
        raise UserError(f"model={folder}: llama.cpp's qwen3 has no attention biases; export with to=huggingface")
    files = weight_files(folder)
    check_recorded(folder, ["config.json", *(file.name for file in files)])
    return Model(folder, config, architecture, _sources(names_in(files), config, architecture, folder))


def _sources(files: Mapping[str, Path], config: BackboneConfig, architecture: str, folder: Path) -> dict[str, Source]:
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in TOP.items()}
    tied = config.tie_embeddings and not (
        HEAD in files and EMBEDDING in files and not same_tensor(files, EMBEDDING, HEAD)
    )
    if tied:
        del names["output.weight"]
        names["token_embd.weight"] = EMBEDDING if EMBEDDING in files else HEAD
    for layer in range(config.num_layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                theirs_here = f"model.layers.{layer}.{theirs}.{kind}"
                if theirs_here in files or (kind == "weight" and not ours.endswith(("q_norm", "k_norm"))):
                    names[f"blk.{layer}.{ours}.{kind}"] = theirs_here
    turned = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    turned = turned if ARCHITECTURES[architecture].rotates_pairs else {}
    found = {}
    for ours, theirs in names.items():
        if theirs not in files:
            raise UserError(f"model={folder}: {theirs} is missing from its weights; fetch the folder again")
        with safe_open(files[theirs], framework="pt") as file:
            shape = tuple(file.get_slice(theirs).get_shape())
        heads = next((n for part, n in turned.items() if f".{part}." in ours), 0)
        found[ours] = Source(files[theirs], theirs, shape, heads)
    return found


def write_gguf(
    path: Path, model: Model, tokenizer: Tokenizer, quantization: Quantization, about: Mapping[str, str]
) -> None:
    """Write the file. ``about``: ``general.*`` entries (name, license).

    Raises UserError for a tokenizer that llama.cpp has no form for, a weight that is no number, a full disk.
    """
    gguf = gguf_package()
    check_vocabulary(model.config, tokenizer.vocab_size, model.folder)
    values = metadata(model, quantization, about)
    values |= tokenizer_metadata(tokenizer, model.config.vocab_size, f"model={model.folder}")
    kinds = {name: kind_of(name, source.shape, quantization) for name, source in model.tensors.items()}
    extra = _rope_factors(model.config)
    with beside(path) as temporary:
        writer = gguf.GGUFWriter(temporary, model.architecture)
        for key, value in values.items():
            _add(writer, key, value)
        infos = {name: (source.shape, kinds[name]) for name, source in model.tensors.items()}
        infos |= {name: (value.shape, "F32") for name, value in extra.items()}
        for name, (shape, kind) in infos.items():
            of = gguf.GGMLQuantizationType[kind]
            weights, size = gguf.GGML_QUANT_SIZES[of]
            writer.add_tensor_info(
                name, shape, np.dtype(np.float32), int(np.prod(shape)) // weights * size, raw_dtype=of
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total = sum(int(np.prod(shape)) for shape, _ in infos.values())
        with Bar(total=total, desc=path.name, unit=" weights", unit_scale=True, leave=False) as bar:
            for name, value in _values(model, extra):
                writer.write_tensor_data(quantized(value, infos[name][1]))
                bar.update(value.size)
        writer.close()


def metadata(model: Model, quantization: Quantization, about: Mapping[str, str]) -> dict[str, Any]:
    """The entries of the head but the tokenizer's."""
    config, a = model.config, model.architecture
    found: dict[str, Any] = {
        "general.type": "model", **{f"general.{key}": value for key, value in about.items()},
        "general.file_type": _FILE_TYPES[quantization], "general.quantization_version": 2,
        f"{a}.vocab_size": config.vocab_size, f"{a}.context_length": model.context,
        f"{a}.embedding_length": config.hidden_size, f"{a}.block_count": config.num_layers,
        f"{a}.feed_forward_length": config.intermediate_size, f"{a}.attention.head_count": config.num_heads,
        f"{a}.attention.head_count_kv": config.num_kv_heads, f"{a}.attention.key_length": config.head_dim,
        f"{a}.attention.value_length": config.head_dim, f"{a}.rope.dimension_count": config.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        f"{a}.rope.freq_base": float(config.rope_theta),
    }  # fmt: skip
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        found |= {f"{a}.rope.scaling.type": "linear", f"{a}.rope.scaling.factor": float(scaling.factor)}
    return found


def kind_of(name: str, shape: tuple[int, ...], quantization: Quantization) -> str:
    """ggml's type of a tensor: vectors float32, rows of no whole blocks float16, the ends of few-bit files ``FINE``."""
    if len(shape) == 1:
        return "F32"
    if quantization.startswith("q") and shape[-1] % BLOCK:
        return "F16"
    few = quantization.startswith(("q4", "q5"))
    return (FINE if few and name in ("token_embd.weight", "output.weight") else quantization).upper()


def quantized(value: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Raises UserError for a weight beyond float16's range where that is the type."""
    gguf = gguf_package()
    if kind == "F16" and value.size and np.abs(value).max() > _HALF:
        raise UserError(f"quantization=f16: a weight is beyond float16's range ({_HALF:,.0f}); use bf16 or f32")
    found: np.ndarray[Any, Any] = gguf.quants.quantize(value, gguf.GGMLQuantizationType[kind])
    return found


def _values(model: Model, extra: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name, source in model.tensors.items():
        with safe_open(source.file, framework="pt") as file:
            value = file.get_tensor(source.name).to(torch.float32).numpy()
        if not np.isfinite(value).all():
            raise UserError(f"{source.file}: {source.name} has NaN or infinite weights; use an earlier folder")
        yield name, np.ascontiguousarray(neighbours(value, source.heads)) if source.heads else value
    yield from extra.items()


def _rope_factors(config: BackboneConfig) -> dict[str, np.ndarray[Any, Any]]:
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return {}
    settings = {
        "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }  # fmt: skip
    return {ROPE_FACTORS: np.array(llama3_factors(settings, config.rope_theta, config.head_dim), np.float32)}


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
