"""A model folder as a GGUF file: tensor by tensor, so that one is in memory at a time, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.families import read_config, write_config
from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.transformers_folder import is_of_transformers
from lit_llm.backbone.weights import names_in, same_tensor, weight_files
from lit_llm.errors import UserError
from lit_llm.export.architectures import unlike
from lit_llm.export.rope_metadata import rope_metadata, rope_tensors
from lit_llm.export.tokenizer_metadata import name_for, tokenizer_metadata
from lit_llm.model_sources.gguf_architectures import FAMILIES, OWN, GGUFFamily
from lit_llm.model_sources.gguf_forms import AS_IT_IS, FORMS, STACKED, Array, Heads
from lit_llm.model_sources.gguf_header import Quantization, gguf_package
from lit_llm.model_sources.gguf_model import PATTERN, WINDOW
from lit_llm.runtime.atomic_files import beside
from lit_llm.runtime.model_folder import check_model_folder, check_recorded
from lit_llm.runtime.progress_bars import Bar
from lit_llm.text.tokenizer import Tokenizer

BLOCK = 32  # weights of one scale, in all of these that have scales
FINE = "q8_0"  # of embedding and head where the rest has fewer bits, as llama.cpp's own tool does it
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}  # ggml's
_WIDE = ("ffn_gate_inp.weight", "position_embd.weight")  # stay float32, as llama.cpp's own tool has them
_HALF = 65504.0  # float16's largest
_CONTEXT = "max_position_embeddings"


@dataclass(frozen=True)
class Source:
    """What a GGUF tensor is made from: tensors of the folder (one, but where experts are stacked), and their form."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]  # in the file
    form: str = AS_IT_IS

    def read(self, config: BackboneConfig) -> Array:
        """In llama.cpp's layout, float32. Raises UserError for NaN and infinite weights."""
        parts = []
        for path, name in zip(self.files, self.names, strict=True):
            with safe_open(path, framework="pt") as file:
                value = file.get_tensor(name).to(torch.float32).numpy()
            if not np.isfinite(value).all():
                raise UserError(f"{path}: {name} has NaN or infinite weights; use an earlier folder")
            parts.append(value)
        return np.ascontiguousarray(FORMS[self.form].there(parts, Heads(config.num_heads, config.num_kv_heads)))


@dataclass(frozen=True)
class Model:
    """A model folder as far as GGUF has a form for it."""

    folder: Path
    config: BackboneConfig
    architecture: str
    tensors: Mapping[str, Source]  # by GGUF's names

    @property
    def context(self) -> int:
        """Where llama.cpp knows no window, within the window's length all is as trained."""
        window = self.config.sliding_window if FAMILIES[self.config.family].every is None else None
        return min(self.config.max_positions, window or self.config.max_positions)


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
    row = FAMILIES.get(config.family)
    if row is None:
        raise UserError(
            f"model={folder}: the family {config.family} is not written into GGUF here; written are "
            f"{', '.join(FAMILIES)}; export with to=huggingface"
        )
    if found := unlike(config):
        raise UserError(f"model={folder}: llama.cpp's {row.architecture} has no {found[0]}; export with to=huggingface")
    files = weight_files(folder)
    check_recorded(folder, ["config.json", *(file.name for file in files)])
    return Model(folder, config, row.architecture, _sources(names_in(files), config, row, folder))


def _sources(files: Mapping[str, Path], config: BackboneConfig, row: GGUFFamily, folder: Path) -> dict[str, Source]:
    head, embedding = f"{row.top['output']}.weight", f"{row.top['token_embd']}.weight"
    bare = row.layers.split(".")[0] + "."  # of the transformer, which files that were saved without a head lack
    without = not any(name.startswith(bare) for name in files)
    found, used = dict[str, Source](), set[str]()
    tied = config.tie_embeddings and not (
        head in files and embedding in files and not same_tensor(files, embedding, head)
    )
    for piece in row.pieces(config.num_layers, config.num_experts):
        ours, form = piece.name, piece.form
        names = [name.removeprefix(bare) if without else name for name in piece.theirs]
        if ours == "output.weight" and tied:
            continue
        if ours == "token_embd.weight" and tied and names[0] not in files and head in files:
            names = [head]
        missing = [name for name in names if name not in files]
        if missing and not piece.needed:
            continue
        if missing:
            raise UserError(f"model={folder}: {missing[0]} is missing from its weights; fetch the folder again")
        found[ours] = Source(tuple(files[n] for n in names), tuple(names), _shape(files, names, form), form)
        used |= {*names, *([head] if tied else [])}
    other = [name for name in files if name not in used and not name.endswith(_IGNORED)]
    if other:
        raise UserError(f"model={folder}: llama.cpp's {row.architecture} has no {other[0]}; export with to=huggingface")
    return found


_IGNORED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias", ".attn.bias", ".attn.masked_bias")
"""Endings of tensors that some versions of transformers wrote and nobody needs."""


def _shape(files: Mapping[str, Path], names: Sequence[str], form: str) -> tuple[int, ...]:
    with safe_open(files[names[0]], framework="pt") as file:
        shape = tuple(file.get_slice(names[0]).get_shape())
    return (len(names), *shape) if form == STACKED else shape[::-1] if form == "transposed" else shape


def write_gguf(
    path: Path, model: Model, tokenizer: Tokenizer, quantization: Quantization, about: Mapping[str, str]
) -> None:
    """Write the file. ``about``: ``general.*`` entries (name, license).

    Raises UserError for a tokenizer that llama.cpp has no form for, a weight that is no number, a full disk.
    """
    gguf = gguf_package()
    check_vocabulary(model.config, tokenizer.vocab_size, model.folder)
    named = {"name": name_for(about["name"], tokenizer)} if "name" in about else {}
    values = metadata(model, quantization, {**about, **named})
    values |= tokenizer_metadata(tokenizer, model.config.vocab_size, f"model={model.folder}")
    kinds = {name: kind_of(name, source.shape, quantization) for name, source in model.tensors.items()}
    extra = rope_tensors(model.config)
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
    config, a, row = model.config, model.architecture, FAMILIES[model.config.family]
    settings = write_config(config, "language") | {row.names.get(_CONTEXT, _CONTEXT): model.context}
    found: dict[str, Any] = {
        "general.type": "model", **{f"general.{key}": value for key, value in about.items()},
        "general.file_type": _FILE_TYPES[quantization], "general.quantization_version": 2,
        f"{a}.vocab_size": config.vocab_size,
    }  # fmt: skip
    for entry in row.usual():
        if (value := settings.get(entry.setting)) is not None:
            found[f"{a}.{entry.key}"] = entry.kind(value)
    if row.every is not None and config.sliding_window is not None:
        found[f"{a}.{WINDOW}"] = config.sliding_window
        if row.pattern:
            found[f"{a}.{PATTERN}"] = [not row.sees_all(layer) for layer in range(config.num_layers)]
    said = {OWN + name: settings[name] for name in row.spoken if settings[name] != row.fixed[name]}
    return found | said | {f"{a}.{key}": value for key, value in rope_metadata(config, row).items()}


def kind_of(name: str, shape: tuple[int, ...], quantization: Quantization) -> str:
    """ggml's type of a tensor: vectors float32, rows of no whole blocks float16, the ends of few-bit files ``FINE``."""
    if len(shape) == 1:
        return "F32"
    if name.endswith(_WIDE):
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


def _values(model: Model, extra: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    for name, source in model.tensors.items():
        yield name, source.read(model.config)
    yield from extra.items()


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
