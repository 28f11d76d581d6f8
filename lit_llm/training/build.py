"""Load: tokenizer, model, data and stage of a run, and what can be checked between them before the first step."""

from __future__ import annotations

import copy
import logging
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch._functorch import config as functorch

from lit_llm.backbone.deferred_weights import can_be_deferred, load_outline, on_meta
from lit_llm.backbone.fresh_weights import outline_of
from lit_llm.backbone.huggingface import load_model
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.lora import merge_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, StoredDtypes
from lit_llm.backbone.options import TransformersOptions
from lit_llm.config.targets import construct, named_class
from lit_llm.data.data_module import DataModule
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import base_of
from lit_llm.runtime.atomic_files import folder_beside
from lit_llm.runtime.compile_cache import keep_compiled
from lit_llm.runtime.devices import is_sharded
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.model_folder import check_model_folder, is_adapter
from lit_llm.stages.base import Stage
from lit_llm.stages.options import AdapterOptions, adapter_words, as_word
from lit_llm.text.merges import LearnedMerges
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer
from lit_llm.training import vocabulary

log = logging.getLogger("lit_llm")


@dataclass
class Parts:
    """What a run is made of, ready to fit."""

    cfg: DictConfig
    tokenizer: Tokenizer
    model: nn.Module  # as loaded: what the stage starts from
    data: DataModule
    stage: Stage
    callbacks: list[L.Callback]
    tokenizer_before: Tokenizer | None = None  # as it was, where the stage gave it new tokens
    start: LoadedModel | None = None  # a copy of ``init_from`` as read, for its evaluation before the first step


def load(cfg: DictConfig, folder: Path) -> Parts:
    """Everything but the Trainer. Raises UserError where the parts do not fit each other.

    ``folder`` keeps a tokenizer trained here, so that a resumed run need not train it again.
    """
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    check_batches(cfg)
    tokenizer = load_run_tokenizer(cfg, folder / "tokenizer")
    L.seed_everything(
        cfg.seed, workers=True, verbose=False
    )  # the same weights whether the tokenizer was trained or read
    model = load_run_model(cfg, tokenizer)
    start = None
    if measured_before(cfg):  # the stage may give the model adapters and both of them new tokens
        start = LoadedModel(_read_whole(cfg) if on_meta(model) else copy.deepcopy(model), copy.deepcopy(tokenizer))
        merge_lora(start.model)  # where the run starts from adapters
    grows = bool(cfg.stage.get("new_tokens"))
    before = copy.deepcopy(tokenizer) if grows else None
    learned = learned_tokens(cfg, tokenizer, folder)
    stage = construct(cfg.stage, "stage", cfg.allowed_targets)(
        **({} if learned is None else {"learned": learned}),
        model=model,
        tokenizer=tokenizer,
        optimizer=construct(cfg.optimizer, "optimizer", cfg.allowed_targets),
        schedule=construct(cfg.schedule, "schedule", cfg.allowed_targets),
    )
    _settle_network(cfg, stage)
    # After the stage: new tokens are in the tokenizer before any data is tokenized.
    data = construct(cfg.data, "data", cfg.allowed_targets)(tokenizer=tokenizer)
    callbacks = [
        construct(item, "callbacks", cfg.allowed_targets, f"callbacks.{name}")
        for name, item in cfg.callbacks.items()
        if item is not None
    ]
    return Parts(cfg, tokenizer, model, data, stage, callbacks, before, start)


def measured_before(cfg: DictConfig) -> bool:
    """Whether this process evaluates the model that the run starts from."""
    wanted = cfg.evaluation.enabled and cfg.evaluation.before and not cfg.trainer.fast_dev_run
    return bool(wanted and cfg.init_from) and is_first_process()


def check_batches(cfg: DictConfig) -> None:
    """Refuses data that gives other batches than the stage takes."""
    stage, data = (named_class(cfg[group], group, cfg.allowed_targets) for group in ("stage", "data"))
    wanted, given = getattr(stage, "batch_type", None), getattr(data, "batch_type", None)
    if wanted is not None and given is not None and wanted is not given:
        raise UserError(
            f"data={cfg.data._target_.rsplit('.', 1)[-1]} gives {given.__name__}, stage={stage.__name__} takes "
            f"{wanted.__name__}: choose data that fits the stage (stage=NAME alone chooses it)"
        )


def load_run_tokenizer(cfg: DictConfig, folder: Path) -> Tokenizer:
    """The model's own with init_from; else the one configured, trained on the run's own text where it is to be."""
    if cfg.init_from is not None:
        check_model_folder(cfg.init_from, "init_from")
        return load_tokenizer(cfg.init_from)
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    if folder.is_dir() and any(folder.iterdir()):  # ours is whole or absent: this is somebody's own
        raise UserError(f"{folder}: holds files but no tokenizer.json; give another folder for the run: hydra.run.dir=")
    made = construct(cfg.tokenizer, "tokenizer", cfg.allowed_targets)
    tokenizer: Tokenizer = made if isinstance(made, Tokenizer) else made(texts=_training_texts(cfg))
    with folder_beside(folder) as unfinished:  # whole or absent, whenever the process is killed
        tokenizer.save(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
    return tokenizer


def learned_tokens(cfg: DictConfig, tokenizer: Tokenizer, folder: Path) -> LearnedMerges | None:
    """What ``stage.new_tokens=auto:N`` learns from the data's training texts, or has learned for this run's folder."""
    return vocabulary.learned(cfg, tokenizer, folder, lambda: _training_texts(cfg, "stage.new_tokens"))


def _training_texts(cfg: DictConfig, key: str = "tokenizer") -> Any:
    """The data's own training texts; data without any raw text cannot teach what ``key`` asks for."""
    data: Any = named_class(cfg.data, "data", cfg.allowed_targets)
    if not hasattr(data, "tokenizer_texts") and key != "tokenizer":
        raise UserError(
            f"{key}={cfg.stage.new_tokens}: {data.__name__} has no raw text to learn tokens from; give words"
        )
    if not hasattr(data, "tokenizer_texts"):
        raise UserError(
            f"tokenizer: {data.__name__} has no raw text to train one on; give init_from=FOLDER, or "
            "tokenizer=folder tokenizer.folder=FOLDER"
        )
    values = OmegaConf.masked_copy(cfg.data, [key for key in cfg.data if not str(key).startswith("_")])
    values._set_parent(cfg)  # what its interpolations count from
    given = construct(values, "", cfg.allowed_targets, "data")
    known = {field.name for field in fields(data.Options)}
    return data.tokenizer_texts(data.Options(**{key: value for key, value in given.items() if key in known}))


def load_run_model(cfg: DictConfig, tokenizer: Tokenizer) -> LanguageModel | ScoreModel:
    """The folder's model, or a fresh one; a vocabulary unlike the embedding's rows is refused here."""
    if cfg.init_from is not None:
        model = load_outline(cfg.init_from, _dropout(cfg)) if _is_deferred(cfg) else _read_whole(cfg)
        if is_adapter(cfg.init_from) and not cfg.stage.get("lora_rank") and is_first_process():
            log.info("init_from=%s: an adapter of %s; the two, merged, are trained as one model (stage.lora_rank above "
                     "0 trains the adapter on)", cfg.init_from, base_of(cfg.init_from))  # fmt: skip
    else:
        own = {} if cfg.backbone.get("vocab_size") else {"vocab_size": tokenizer.vocab_size}
        config = construct(cfg.backbone, "backbone", cfg.allowed_targets)(**own)
        model = outline_of(config) if _is_deferred(cfg) else LanguageModel(config)
    _check_fit(cfg, model, tokenizer)
    _tell_of_no_adapters(cfg)
    if cfg.trainer.save_dtype is not None:
        model.stored = StoredDtypes(getattr(torch, cfg.trainer.save_dtype))
    return model


def _tell_of_no_adapters(cfg: DictConfig) -> None:
    """The words about adapters that count for nothing with ``stage.lora_rank=0``, as in a sweep that has it."""
    kind: Any = named_class(cfg.stage, "stage", cfg.allowed_targets)
    if cfg.stage.get("lora_rank") != 0 or not issubclass(kind.Options, AdapterOptions) or not is_first_process():
        return
    values: Any = OmegaConf.to_container(cfg.stage, resolve=True)
    if words := adapter_words(kind.Options, values):
        told = " ".join(f"stage.{name}={as_word(value)}" for name, value in words.items())
        log.info("stage.lora_rank=0: all weights are trained, without adapters; %s counts for nothing", told)


def _read_whole(cfg: DictConfig) -> LanguageModel | ScoreModel:
    head: Any = getattr(named_class(cfg.stage, "stage", cfg.allowed_targets), "head", "language")
    keep = bool(cfg.stage.get("lora_rank"))
    return load_model(cfg.init_from, head, dropout=_dropout(cfg), keep_adapter=keep, **computed_by(cfg))


def _dropout(cfg: DictConfig) -> float:
    return cfg.backbone.get("dropout") or 0.0


def _is_deferred(cfg: DictConfig) -> bool:
    """Whether each process gets its part of the weights alone, once the model is spread over them; not where the stage
    works on them before that: for a vocabulary that grows, lengths of rows (DoRA), log-probabilities of all data."""
    reads = ("new_tokens", "lora_dora", "reference_cache", "reference_logps", "lora_quantization")
    head = getattr(named_class(cfg.stage, "stage", cfg.allowed_targets), "head", "language")
    if not is_sharded(cfg.trainer) or head != "language" or any(cfg.stage.get(key) for key in reads):
        return False
    return computed_by(cfg)["library"] == "own" and (not cfg.init_from or can_be_deferred(cfg.init_from))


def computed_by(cfg: DictConfig) -> dict[str, Any]:
    """What ``load_model`` and ``load_config`` are told of whose code computes the model of ``init_from``."""
    if cfg.backbone.get("_target_") != TransformersOptions.TARGET:
        return {"library": "own"}
    return {"library": "transformers", "trust_remote_code": cfg.backbone.trust_remote_code}


def _check_fit(cfg: DictConfig, model: Any, tokenizer: Tokenizer) -> None:
    rows = model.config.vocab_size
    if tokenizer.vocab_size > rows:
        where = f"init_from={cfg.init_from}" if cfg.init_from else f"backbone.vocab_size={rows}"
        raise UserError(
            f"{where}: the embedding has {rows} rows, the tokenizer {tokenizer.vocab_size} tokens; each token needs "
            "a row: take the tokenizer of the model, or backbone.vocab_size=null"
        )
    context = model.config.max_positions
    for key in ("max_length", "ptx_max_length" if cfg.data.get("ptx_path") else "max_length"):
        longest = cfg.data.get(key)
        if longest is not None and longest > context:
            raise UserError(f"data.{key}={longest}: the model's context is {context} (backbone.max_positions)")


def _settle_network(cfg: DictConfig, stage: Stage) -> None:
    """Options of the network that are the run's, not the model's; and what its adapters, if any, belong to."""
    if stage.lora_rank and not stage.lora_merge and not cfg.init_from:
        raise UserError("stage.lora_merge=false: an adapter is of a model that is kept; give its folder as init_from")
    if stage.lora_rank and not stage.lora_merge and cfg.trainer.save_dtype is not None:
        raise UserError(
            f"trainer.save_dtype={cfg.trainer.save_dtype}: no weights are saved with stage.lora_merge=false, the base "
            "stays as it is; leave one of the two out"
        )
    start = cfg.init_from or ""
    stage.base_model = stage.base_model or str(base_of(start) if start and is_adapter(start) else start)
    network = getattr(stage.model, "backbone", None)
    if network is not None and cfg.trainer.gradient_checkpointing:
        network.gradient_checkpointing = True
    if cfg.trainer.compile:
        _compile(cfg, stage, network if network is not None else stage.model)


def _compile(cfg: DictConfig, stage: Stage, network: nn.Module) -> None:
    """What this process compiled for other runs is dropped: it counts against the compiler's limit, and has their
    budget."""
    keep_compiled(Path(cfg.data.get("cache_dir") or "outputs/cache") / "compiled")
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 32  # of a layer: with and without gradients, rows of few and many tokens
    budget = cfg.trainer.activation_memory_budget
    if budget < 1 and any(isinstance(part, nn.Dropout) and part.p > 0 for part in stage.modules()):
        raise UserError(  # torch 2.13 draws them anew when it computes activations again: the gradients are others'
            f"trainer.activation_memory_budget={budget}: the compiler forgets what dropout left out; give "
            "backbone.dropout=0 and stage.lora_dropout=0 (where there are adapters), or "
            "trainer.gradient_checkpointing=true in its place"
        )
    functorch.activation_memory_budget = budget
    network.compile()
