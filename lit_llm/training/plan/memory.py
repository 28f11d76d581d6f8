"""Memory of a run by part, from its configuration and the size of its batches: no weight is read and none is made."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lit_llm.backbone.huggingface import load_config
from lit_llm.backbone.lora import apply_lora
from lit_llm.backbone.models import LanguageModel, grow_vocabulary
from lit_llm.backbone.models import Shape as ModelShape
from lit_llm.backbone.new_rows import count_trained, train_rows
from lit_llm.backbone.quantized import bytes_of, is_quantizable, quantize
from lit_llm.config import schema
from lit_llm.config.targets import construct, named_class
from lit_llm.evaluation.sets import KINDS
from lit_llm.model_sources.adapters import is_model
from lit_llm.optim.parameter_groups import trained_numbers
from lit_llm.runtime import devices
from lit_llm.stages.options import AdapterOptions, ContinuedPretrainingOptions, StageOptions
from lit_llm.training.build import computed_by, measured_before
from lit_llm.training.plan.activations import Activations, activations
from lit_llm.training.trainer import precision

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SPARE = 0.92  # of what is free: the rest is for what no plan knows


@dataclass(frozen=True)
class Pass:
    """The largest forward pass that is learned from: rows, and tokens a row. ``sampled``: answers at once while
    training, and tokens of one with its prompt."""

    rows: int
    length: int
    sampled: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Not all are held at once: ``total`` is the most of before, while and after training."""

    weights: float
    gradients: float
    optimizer: float
    copies: float  # frozen networks beside it: a reference, reward models; and what a checkpoint is written from
    activations: float  # with what a pass needs for moments
    process: float  # Python, torch, this program and its data; on a GPU 0
    cache: float  # keys and values of the answers that are generated at once
    laid_out: float  # the weights a second time while answers are sampled, as the decoder multiplies by them
    read: float  # before the first step: the weights as they are read, and a copy that is evaluated
    made: float  # after the last step: what adapters make, merged, and what it is measured beside

    @property
    def training(self) -> float:
        return self.process + self.weights + self.gradients + self.optimizer + self.copies + self.activations

    @property
    def sampling(self) -> float:
        """While answers are sampled, or the end is evaluated: the decoder has the weights a second time, laid out for
        it, and merged adapters are a model of their own."""
        return self.process + self.weights + self.laid_out + self.optimizer + self.copies + self.cache + self.made

    @property
    def beginning(self) -> float:
        """Before the first step."""
        return self.process + self.read + self.laid_out + self.cache if self.read else 0.0

    @property
    def total(self) -> float:
        """The peak."""
        return max(self.training, self.sampling if self.cache or self.made else 0.0, self.beginning)

    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Shape:
    """What memory follows from: the model, what is trained of it, and how."""

    config: ModelShape
    options: StageOptions
    trained: int  # parameters
    gradients: int  # numbers that have one: of a table whose new rows alone are trained, all
    states: int  # numbers that the optimizer keeps
    dtype: torch.dtype
    autocast: torch.dtype | None  # of products; None: as the weights
    device: str
    checkpointing: bool
    rewards: int  # parameters of reward models
    generated: tuple[int, int]  # answers at once in the evaluation, tokens of one with its prompt; (0, 0): none
    linear: tuple[int, ...]  # numbers of each weight that adapters may stand beside, in 4 bits if it is asked for
    before: bool  # whether the model that the run starts from is evaluated
    after: int  # networks that the evaluation at the end makes beside the stage's
    asynchronous: bool  # whether checkpoints are written from a copy
    micro: int = 1  # data.micro_batch_size
    step: int | None = None  # rows of a step in this process, a whole number of micro-batches; None: as many as it is

    @property
    def parameters(self) -> int:
        return self.config.num_parameters

    def activations(self, length: int) -> Activations:
        return activations(
            self.config,
            length,
            dtype=self.dtype,
            autocast=self.autocast,
            device=self.device,
            checkpointing=self.checkpointing,
            prepare=lambda model: adapted(model, self.options, there=True),
        )

    def memory(self, of: Pass, process: float, known: Activations | None = None) -> Memory:
        size = self.dtype.itemsize
        copies, beside = self.options.frozen_copies, self.options.trained_copies
        each = self.activations(of.length) if known is None else known
        answers, tokens = max(self.generated, of.sampled, key=lambda each: each[0] * each[1])
        layer = 2 * self.config.num_kv_heads * self.config.head_dim
        weights, on_cpu = size * self.parameters * (1 + beside), self.device == "cpu"
        quantized = isinstance(self.options, AdapterOptions) and self.options.lora_quantization is not None
        in_4_bits = sum(map(bytes_of, self.linear)) - size * sum(self.linear) if quantized else 0
        written = weights + in_4_bits + size * self.states * (1 + beside) if on_cpu and self.asynchronous else 0.0
        return Memory(
            weights=weights + in_4_bits,
            gradients=size * self.gradients * (1 + beside),
            optimizer=size * self.states * (1 + beside),
            copies=size * (self.parameters * copies + self.rewards) + written,
            activations=each.of(self.config.num_layers, of.rows),
            process=process,
            cache=(self.autocast or self.dtype).itemsize * self.config.num_layers * layer * answers * tokens,
            laid_out=weights if answers * tokens else 0.0,
            # In float32 in the host's memory: a GPU gets the 4 bits.
            read=4.0 * self.parameters * (1 + self.before) if (quantized or self.before) and on_cpu else 0.0,
            made=size * self.parameters * self.after,
        )


def shape_of(cfg: DictConfig, vocab_size: int | None = None) -> Shape:
    """The shape of a run. ``vocab_size``: of its tokenizer, where it is known. Raises UserError as the run would."""
    config = model_shape(cfg, vocab_size)
    options = stage_options(cfg)
    with torch.device("meta"):
        model = LanguageModel(config)
    if new := new_tokens(options):
        grow_vocabulary(model, max(config.vocab_size, (vocab_size or config.vocab_size) + new))
        config = model.config
    linear = tuple(part.weight.numel() for name, part in model.named_modules() if is_quantizable(name, part))
    with torch.device("meta"):
        adapted(model, options)
    optimizer = construct(cfg.optimizer, "optimizer", cfg.allowed_targets)(_Trained(model))
    kind = precision(cfg.trainer.precision, cfg.trainer.accelerator)
    gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    said, micro, step = cfg.evaluation, cfg.data.get("micro_batch_size"), cfg.trainer.global_batch_size
    longest = (cfg.data.get("max_length") or cfg.data.get("max_prompt_length") or 256) + said.max_new_tokens
    return Shape(
        config=config,
        options=options,
        trained=count_trained(model),
        gradients=with_gradients(model),
        states=sum(
            trained_numbers(each) * (1 if group.get("muon") else 2)
            for group in optimizer.param_groups
            for each in group["params"]
        ),
        dtype={"bf16-true": torch.bfloat16}.get(kind, torch.float32),
        autocast={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(kind),
        device="cuda" if gpu else "cpu",
        checkpointing=bool(cfg.trainer.gradient_checkpointing),
        rewards=sum(found.num_parameters for found in _reward_models(schema.plain(cfg)["stage"])),
        generated=(said.batch_size, min(config.max_positions, longest)) if said.enabled and said.generate else (0, 0),
        linear=linear,
        before=measured_before(cfg),
        after=_made_at_the_end(cfg, options),
        asynchronous=bool((cfg.callbacks.get("checkpoints") or {}).get("asynchronous")),
        micro=micro if isinstance(micro, int) else 1,
        step=None if step is None else step // devices.shares(cfg.trainer),
    )


def _made_at_the_end(cfg: DictConfig, options: StageOptions) -> int:
    """The merged model, and the base where a stage is measured beside what it started from: with adapters alone."""
    if not isinstance(options, AdapterOptions) or not options.lora_rank or not cfg.evaluation.enabled:
        return 0
    kind: Any = named_class(cfg.stage, "stage", cfg.allowed_targets)
    return 1 + any(kind.is_measured_beside_its_start(each) for each in KINDS)


class _Trained(nn.Module):
    """A network as an optimizer is given a stage's: by the name ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def model_shape(cfg: DictConfig, vocab_size: int | None = None) -> ModelShape:
    """Of ``init_from``, else as ``backbone`` says; the vocabulary is the tokenizer's, or what it is to become."""
    if cfg.init_from is not None:
        return load_config(cfg.init_from, **computed_by(cfg))
    own: dict[str, Any] = {}
    if not cfg.backbone.get("vocab_size"):
        own["vocab_size"] = vocab_size or cfg.tokenizer.get("vocab_size")
    made: ModelShape = construct(cfg.backbone, "backbone", cfg.allowed_targets)(**own)
    return made


def stage_options(cfg: DictConfig) -> StageOptions:
    """The options of the configuration's stage."""
    kind: Any = named_class(cfg.stage, "stage", cfg.allowed_targets)
    values: dict[str, Any] = schema.plain(cfg)["stage"]
    known = {field.name for field in fields(kind.Options)}
    options: StageOptions = kind.Options(**{key: value for key, value in values.items() if key in known})
    return options


def adapted(model: LanguageModel, options: StageOptions, there: bool = False) -> None:
    """As the stage makes it. ``there``: the model has weights, which are put in 4 bits where that can be done here."""
    if not isinstance(options, AdapterOptions) or not options.lora_rank:
        return
    if options.lora_quantization and there and find_spec("bitsandbytes") is not None:
        quantize(model)
    apply_lora(model, **options.adapters())
    if new := new_tokens(options):
        train_rows(model, range(model.config.vocab_size - new, model.config.vocab_size))


def new_tokens(options: StageOptions) -> int:
    """By how many ids a vocabulary grows at the most: two a word, with a blank before it and without. Words that are
    tokens already, and merges that no text has, get none."""
    if not isinstance(options, ContinuedPretrainingOptions):
        return 0
    return options.learned_tokens or 2 * len(set(options.new_tokens))


def with_gradients(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def _reward_models(node: Any) -> Iterator[ModelShape]:
    """Of every folder of a model that a stage's options name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            named = [value] if key == "folder" else value if key == "folders" and isinstance(value, list) else []
            folders = [one for one in named if isinstance(one, str) and is_model(one)]
            yield from map(load_config, folders)
            if not folders:
                yield from _reward_models(value)
    elif isinstance(node, list):
        for value in node:
            yield from _reward_models(value)


# What there is


def process_bytes() -> float:
    """What this process holds now; 0 where the system does not say."""
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, AttributeError):
        return 0.0


def peak_bytes(device: str) -> float:
    """The most that this process has held so far."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    if resource is None:
        return process_bytes()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def available(device: str) -> float:
    """Bytes that a run may hold in all: of the GPU, or of memory within the limits of this process; inf: not known."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    found = [math.inf]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024.0 + process_bytes())
    except (OSError, KeyError, ValueError):
        with suppress(AttributeError, ValueError, OSError):
            found.append(float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # none, or "max"
            found.append(float(Path(file).read_text()))
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        found.append(float(limit))
    return min(found)
