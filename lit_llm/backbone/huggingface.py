"""The model folder in Hugging Face's layout: read into a model here, written for transformers, vLLM, llama.cpp."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lit_llm.backbone import transformers_folder
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.families import Head, write_config
from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.gathering import largest
from lit_llm.backbone.layouts import EMBEDDING, HEAD, Layout, layout_of
from lit_llm.backbone.lora import merge_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, Shape, StoredDtypes
from lit_llm.backbone.quantized import quantize
from lit_llm.backbone.saved_adapters import load_adapter
from lit_llm.backbone.score_settings import head_settings, read_head
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.backbone.transformers_folder import Library, library_for, read_shape_by
from lit_llm.backbone.weights import FLOATS, Found, names_in, read_tensors, same_tensor, weight_files, write_tensors
from lit_llm.errors import UserError
from lit_llm.model_sources import adapters
from lit_llm.model_sources.adapters import config_file
from lit_llm.model_sources.folders import folder_of
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.model_folder import check_model_folder, check_recorded, checked_meanwhile, is_adapter
from lit_llm.text.score_tokens import scoring_tokenizer
from lit_llm.text.tokenizer import Tokenizer

log = logging.getLogger("lit_llm")

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}  # by their names in config.json
KINDS = {"language": "a language model", "score": "a reward model"}


class SavesTokenizer(Protocol):
    def save(self, folder: Path) -> object: ...


def load_config(folder: str | Path, library: Library = "auto", trust_remote_code: bool = False) -> Shape:
    """The shape of the model in ``folder``; ``library`` as ``load_model``. Raises UserError if it is missing, damaged
    or not supported."""
    folder = folder_of(folder)
    return read_shape_by(config_file(folder), library_for(folder, library), trust_remote_code)[0]


def head_in(folder: str | Path, library: Library = "auto", trust_remote_code: bool = False) -> Head:
    """Which head the model in ``folder`` has; arguments and errors as ``load_config``."""
    folder = folder_of(folder)
    found = read_shape_by(config_file(folder), library_for(folder, library), trust_remote_code)[1]
    return "score" if is_adapter(folder) and adapters.scores(folder) else found


def load_model(
    folder: str | Path,
    head: Literal["language", "score", "auto"] = "language",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    dropout: float = 0.0,
    library: Library = "auto",
    trust_remote_code: bool = False,
    keep_adapter: bool = False,
) -> LanguageModel | ScoreModel:
    """The model in ``folder``, of the families in ``family_table.FAMILIES``; sharded files are read too. Any
    name that ``model_sources.folders`` knows will do in its place: a GGUF file, ``hub:OWNER/NAME``. Of an adapter's
    folder it is the base with the adapter merged into it, in memory; with ``keep_adapter`` the base, its weights in 4
    bits where they were beside the adapter (QLoRA), with the adapter beside its layers, which is what is trainable.

    ``library``: whose code computes it. "own": this package's families alone; "transformers": that package, whatever
    the family; "auto": transformers where the family is none of these. ``trust_remote_code``: run Python code that the
    folder brings, where transformers computes it.

    ``head`` says what is wanted; "auto" takes what is there. ``dropout`` is for training (a folder does not hold it).
    Raises UserError, one line, for a missing or damaged file, a NaN, a missing or unexpected key, a wrong shape, an
    architecture that is not supported, or a head other than the one wanted; for a base that is not there or is not the
    one that the adapter was trained on, and for an adapter of other layers or shapes.
    """
    folder = folder_of(folder)
    check_model_folder(folder)
    if is_adapter(folder):
        library = library_for(folder, library)
        found = head_in(folder, library, trust_remote_code)
        if head not in (found, "auto"):
            raise UserError(f"{folder}: holds an adapter of {KINDS[found]}, {KINDS[head]} is wanted")
        model = _adapted(
            folder, found, lambda base: load_model(base, "auto", dtype, device, dropout, library, trust_remote_code)
        )
        if not keep_adapter:
            merge_lora(model).folder = None  # no folder holds these weights
        return model
    path = folder / "config.json"
    config, found, raw = read_shape_by(path, library_for(folder, library), trust_remote_code)
    if head not in (found, "auto"):
        raise UserError(f"{path}: holds {KINDS[found]} ({raw['architectures'][0]}), {KINDS[head]} is wanted")
    if isinstance(config, TransformersConfig):
        model = transformers_folder.read(folder, found, config, dtype, device, dropout)
        if isinstance(model, ScoreModel):
            read_head(model, raw, path)
        model.folder = folder
        return model
    config = dataclasses.replace(config, dropout=dropout)
    files = weight_files(folder)
    with checked_meanwhile(folder, ["config.json", *(file.name for file in files)]):
        model, kept = outlined(config, found, files, path)
        read = read_tensors(files, kept.shapes, dtype, device, kept.ignored, kept.renamed)
    stored = stored_dtypes(raw, read)  # before the tensors are taken away
    _assign(model, read.tensors, raw, path, device)
    model.stored, model.folder = stored, folder
    return model


class Kept(NamedTuple):
    """What the files of a folder hold of a network."""

    files: list[Path]
    shapes: dict[str, torch.Size]  # by the files' names, changed by ``renamed``
    ignored: Callable[[str], bool]  # names that nobody needs
    renamed: Mapping[str, str]  # names in the files to those expected


def outlined(
    config: BackboneConfig, found: Head, files: list[Path], path: Path
) -> tuple[LanguageModel | ScoreModel, Kept]:
    """The network of a folder without its weights, and where they are."""
    config, renamed = _as_in_files(config, found, files, path)
    with torch.device("meta"):  # no memory and no random numbers for weights that are read anyway
        model = LanguageModel(config) if found == "language" else ScoreModel(config)
    shapes = {name: parameter.shape for name, parameter in _named_tensors(model).items()}
    return model, Kept(files, shapes, lambda key: _ignored(key, config, found, renamed), renamed)


def _adapted(
    folder: Path, found: Head, read_base: Callable[[Path], LanguageModel | ScoreModel]
) -> LanguageModel | ScoreModel:
    """The base of the adapter in ``folder``, with the head ``found`` and the adapter beside its layers."""
    check_recorded(folder, (adapters.CONFIG, adapters.WEIGHTS, "config.json"))
    base = adapters.base_of(folder)
    adapters.check_base(folder, base)
    model = read_base(base)
    if found == "language" and isinstance(model, ScoreModel):
        named = folder / adapters.CONFIG
        raise UserError(f"{named}: is an adapter of a language model; its base {base} is a reward model")
    try:
        if adapters.quantization_of(folder) is not None:  # the adapter was trained beside the rounded weights
            quantize(model, f"{folder / adapters.BASE}: quantization=nf4")
        with torch.random.fork_rng(devices=[]):  # a run's random numbers are the same whatever it starts from
            model = ScoreModel.from_language_model(model) if head_of(model) != found else model  # type: ignore[arg-type]
            load_adapter(folder, model)
    except UserError as error:
        told = str(error).replace("the configuration", "its base")
        raise UserError(f"{told} (the base is {base})") from None
    own = folder / "config.json"
    if isinstance(model, ScoreModel) and own.is_file():
        read_head(model, ConfigFile(own).raw, own)
    return model


def _as_in_files(
    config: BackboneConfig, head: Head, files: list[Path], path: Path
) -> tuple[BackboneConfig, dict[str, str]]:
    """A tied model whose file holds another head is not tied, and one that holds the head alone has its embedding
    there (as transformers 5 reads both). Returns the configuration, and names in the files to those expected."""
    names, layout = names_in(files), layout_of(config)
    renamed = _with_prefix(names, layout)
    place = {renamed.get(name, name): file for name, file in names.items()}
    begin = layout.prefix + layout.layers
    layers = len({name.removeprefix(begin).split(".")[0] for name in place if name.startswith(begin)})
    if config.num_layers > layers:  # before so many are built
        asked = FAMILIES[config.family].key("num_hidden_layers")
        raise UserError(f"{path}: {asked}={config.num_layers}, but the weights are missing beyond {layers}")
    their_head, embedding = layout.their_name(HEAD), layout.their_name(EMBEDDING)
    if head != "language" or not config.tie_embeddings or their_head not in place:
        return config, renamed
    if embedding not in place:
        return config, renamed | {their_head: embedding}
    back = {new: old for old, new in renamed.items()}
    if same_tensor(names, back.get(embedding, embedding), back.get(their_head, their_head)):
        return config, renamed
    log.warning("%s: tie_word_embeddings is true, but %s is unlike the embedding: both are kept", path, their_head)
    return dataclasses.replace(config, tie_embeddings=False), renamed


def _with_prefix(names: Mapping[str, Path], layout: Layout) -> dict[str, str]:
    """Names of files that were saved without a head, with the prefix that the others have."""
    bare = any(name.startswith(layout.layers) for name in names)
    if not bare or any(name.startswith(layout.prefix) for name in names):
        return {}
    beside = {layout.their_name(HEAD), "score.weight"}
    return {name: layout.prefix + name for name in names if name not in beside}


def stored_dtypes(raw: Mapping[str, Any], read: Found) -> StoredDtypes:
    """The type that config.json names, else that of most weights."""
    sizes: Counter[torch.dtype] = Counter()
    for name, dtype in read.dtypes.items():
        sizes[dtype] += read.tensors[name].numel()
    named = DTYPES.get(str(raw.get("dtype") or raw.get("torch_dtype")).removeprefix("torch."))
    return StoredDtypes(named or sizes.most_common(1)[0][0], read.dtypes)


def load_language_model(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", dropout: float = 0.0
) -> LanguageModel:
    """``load_model`` with its type known: a language model."""
    model = load_model(folder, "language", dtype, device, dropout)
    assert isinstance(model, LanguageModel)
    return model


def load_score_model(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", dropout: float = 0.0
) -> ScoreModel:
    """``load_model`` with its type known: a reward or value model."""
    model = load_model(folder, "score", dtype, device, dropout)
    assert isinstance(model, ScoreModel)
    return model


def save_model(
    folder: str | Path,
    model: LanguageModel | ScoreModel,
    tokenizer: SavesTokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config.json, model.safetensors, generation_config.json, and what ``tokenizer.save`` writes.

    Each file is written whole or not at all, the weights last. ``dtype``: of the weights; None: as in the folder that
    the model was read from, else as they are. Token ids come from the tokenizer (``end_ids``,
    ``pad_id``, ``bos_id``) and from ``generation``, which goes into generation_config.json and wins. Raises ValueError
    for a model with LoRA adapters (merge them first), UserError for more tokens than the embedding has rows or
    a file that cannot be written (a full disk).
    """
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("the model has LoRA adapters: save merge_lora(copy.deepcopy(model)), or save_adapter")
    if tokenizer is not None and hasattr(tokenizer, "vocab_size"):
        check_vocabulary(model.config, tokenizer.vocab_size)
    folder = Path(folder)
    if dtype is not None:
        model.stored = StoredDtypes(dtype)
    as_stored(model)
    tensors = _named_tensors(model)
    if model.stored is not None:
        tensors = {name: tensor.detach().to(model.stored.of(name)) for name, tensor in tensors.items()}
    if isinstance(model.config, TransformersConfig):
        tensors = transformers_folder.weights_of(model, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(folder, model, tokenizer, generation)
    write_tensors(folder / "model.safetensors", tensors)


def save_settings(
    folder: Path,
    model: LanguageModel | ScoreModel,
    tokenizer: SavesTokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """What ``save_model`` writes beside the weights."""
    if isinstance(model.config, TransformersConfig):
        transformers_folder.copy_code(model.config, folder)
    if isinstance(model, ScoreModel) and isinstance(tokenizer, Tokenizer):
        tokenizer = scoring_tokenizer(tokenizer)
    settings = _token_ids(tokenizer) | dict(generation or {})
    write_json(folder / "config.json", _config_json(model, settings), indent=2)
    if isinstance(model, LanguageModel) and settings:
        write_json(folder / "generation_config.json", settings, indent=2)
    if tokenizer is not None:
        tokenizer.save(folder)


@torch.no_grad()
def as_stored(model: LanguageModel | ScoreModel) -> None:
    """Round the weights, in place, to what the folder will hold: what is measured then is what is written.

    Every process of a sharded model calls it. Where a weight is beyond float16's range (65,504) the folder is written
    in float32, and a warning says so.
    """
    if model.stored is None:
        return
    name_of = layout_of(model.config).their_name
    named = {name: (each, model.stored.of(name_of(name))) for name, each in model.named_parameters()}
    weights = {name: (each, kept) for name, (each, kept) in named.items() if kept != each.dtype}
    for name, (each, kept) in weights.items():
        if kept == torch.float16 and largest(each) > torch.finfo(kept).max:
            log.warning("%s is beyond the range of %s: the model is written in float32", name_of(name), kept)
            model.stored = StoredDtypes(torch.float32)
            return
    for each, kept in weights.values():
        each.copy_(each.to(kept))


def check_vocabulary(config: Shape, tokenizer_size: int, folder: str | Path | None = None) -> None:
    """Raise UserError if the tokenizer has tokens that the embedding has no row for. (Spare rows are common.)"""
    if tokenizer_size > config.vocab_size:
        where = "" if folder is None else f"{folder}: "
        raise UserError(
            f"{where}the tokenizer has {tokenizer_size} tokens, the model's embedding {config.vocab_size} rows: "
            "use the tokenizer of the model's folder, or grow the vocabulary"
        )


def head_of(model: LanguageModel | ScoreModel) -> Head:
    return "language" if isinstance(model, LanguageModel) else "score"


def _named_tensors(model: LanguageModel | ScoreModel) -> dict[str, Tensor]:
    """Parameters as the files have them, by their names there; a tied head is not among them."""
    return layout_of(model.config).in_files(dict(model.named_parameters()), model.config)


def _ignored(key: str, config: BackboneConfig, head: Head, renamed: Mapping[str, str]) -> bool:
    """Tensors that files may hold and no one needs: a tied head again, and what old versions saved of their own."""
    layout = layout_of(config)
    tied = key == layout.their_name(HEAD) and key not in renamed and head == "language" and config.tie_embeddings
    return tied or key.endswith(("rotary_emb.inv_freq", *layout.ignored))


def _assign(
    model: LanguageModel | ScoreModel, tensors: dict[str, Tensor], raw: dict[str, Any], path: Path, device: Any
) -> None:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    named = layout_of(model.config).from_files(tensors, shapes, model.config)
    model.load_state_dict(named, strict=False, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if isinstance(model, LanguageModel):
        model.tie_weights()
    else:
        read_head(model, raw, path)
    for rotary in (model.backbone.rotary, model.backbone.window_rotary):
        if rotary is not None:
            rotary.to(device)


def _token_ids(tokenizer: SavesTokenizer | None) -> dict[str, Any]:
    ids = {
        "bos_token_id": getattr(tokenizer, "bos_id", None),
        "eos_token_id": list(getattr(tokenizer, "end_ids", ())) or None,
        "pad_token_id": getattr(tokenizer, "pad_id", None),
    }
    return {key: value for key, value in ids.items() if value is not None}


def _config_json(model: LanguageModel | ScoreModel, token_ids: Mapping[str, Any]) -> dict[str, Any]:
    theirs = isinstance(model.config, TransformersConfig)
    settings = (transformers_folder.config_json if theirs else write_config)(model.config, head_of(model))
    kept = model.stored.main if model.stored is not None else model.backbone.embed_tokens.weight.dtype
    dtype = str(kept).removeprefix("torch.")
    settings |= {"dtype": dtype, "torch_dtype": dtype}  # new engines read the first, old ones the second
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = token_ids.get(key)
        settings[key] = value[0] if isinstance(value, list | tuple) and value else value  # llama.cpp reads one number
    if isinstance(model, ScoreModel):
        settings |= head_settings(model)
    return settings
