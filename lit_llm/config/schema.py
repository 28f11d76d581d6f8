"""The structured root of a run's and a pipeline's configuration, and the one way they are written out.

No heavy import here: a mistake in a configuration is answered in a second or two, before torch is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config import renamed, yaml_files
from lit_llm.config.conf_files import options
from lit_llm.config.export_keys import ExportConfig
from lit_llm.config.pipeline_keys import AnswersConfig, BestOfNConfig, PeopleConfig
from lit_llm.config.slurm_keys import SlurmConfig
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_text

PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed")
SAVE_DTYPES = (None, "float32", "bfloat16", "float16")
SHARDS = (None, "full", "grad", "hybrid")
WHERE = ("launcher", "slurm")  # keys of a trainer that say where a run is made, not what
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


@dataclass
class TrainerConfig:
    """What the Lightning Trainer of a run is built from. Steps are optimizer steps (rollouts for PPO)."""

    accelerator: str = "auto"  # a GPU is used where there is one
    devices: Any = 1  # processes on a node: a number, auto, -1 (every GPU) or a list of GPUs
    num_nodes: int = 1
    launcher: str = "local"  # this machine; slurm: the run is a job of Slurm's, which is waited for
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # what that job is asked for with
    strategy: str = "auto"  # Lightning's names: ddp, ...; a model that is spread over the processes has the next two
    shard: str | None = None  # full, grad or hybrid: each process holds a part of the model; null: each holds all of it
    tensor_parallel: int = 1  # processes, side by side, that compute each layer together; divides the devices
    precision: str = "auto"  # bf16-mixed where the machine is good at it, else 32-true
    max_steps: int | None = None
    max_epochs: int | None = None
    max_tokens: int | None = None  # positions seen, padding included: turned into steps
    max_time: str | None = None  # DD:HH:MM:SS
    global_batch_size: int | None = None  # rows a step over all devices; null: micro_batch_size on every device
    gradient_clip_val: float | None = 1.0  # global norm
    # Whole numbers count (1 is one batch), decimals are shares (1.0 is all).
    val_check_interval: int | float | None = None  # steps, or a share of an epoch; null: once an epoch
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    log_every_n_steps: int = 10
    checkpoint_every_n_steps: int | None = None  # null: only at the end
    compile: bool = False  # net.compile() in place: worth its minutes for long runs only
    num_threads: int | None = None  # torch's threads; null: the cores, shared out among the processes
    detect_anomaly: bool = False
    deterministic: bool = False
    overfit_batches: int | float = 0
    fast_dev_run: int = 0  # batches; no checkpoints, no model folder
    profiler: str | None = None  # simple, advanced, pytorch
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more compute
    # With compile: the share to keep of what a layer saves for its backward pass; attention is computed again first.
    activation_memory_budget: float = 1.0
    save_dtype: str | None = None  # of the model folder's weights; null: the type of init_from's, else float32
    progress: bool = True
    sanity_steps: int = 0  # validation batches before the first step


@dataclass
class EvaluationConfig:
    """The evaluation on held-out data that ends a run, and that its parent takes before it."""

    enabled: bool = True
    before: bool = True  # the model that the run starts from takes it too
    generate: bool = True  # task metrics of generated answers, not of likelihoods alone
    max_items: int | None = 200  # of every held-out set; null: all
    batch_size: int = 64  # answers generated at once
    max_new_tokens: int = 64
    temperature: float | None = None  # of answers to held-out prompts; null: 0.7. Those with a reference: 0 (greedy)
    seed: int = 0
    scorers: dict[str, Any] = field(default_factory=dict)  # what else judges the answers to held-out prompts, by name
    objective: str | None = None  # what sweeps compare: "set/measure", "-set/measure" if more is better; null: val loss


@dataclass
class PathsConfig:
    """Where things lie."""

    outputs: str = "outputs"  # runs, pipelines, sweeps, ranking projects
    cache: str = "outputs/cache"  # tokens, the installed documentation, finished stages


@dataclass
class TrainConfig:
    """One run. The contents of ``stage`` ... ``logger`` are plain YAML with ``_target_`` (checked by validation.py)."""

    stage: Any = MISSING
    backbone: Any = MISSING
    tokenizer: Any = MISSING
    data: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: Any = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    init_from: str | None = None  # a model (folder, FILE.gguf, hub:OWNER/NAME): starts from its weights and tokenizer
    pretrained_defaults: Any = "auto"  # true, false; in a run that took values from that table, what it took
    resume: str | None = None  # auto, or a run folder: go on with an unfinished run
    seed: int = 0
    paths: PathsConfig | None = None  # null: a step's of a pipeline, which has its own
    allowed_targets: list[str] = field(default_factory=list)  # prefixes that _target_ may name besides lit_llm.


@dataclass
class PipelineConfig:
    """A chain of runs. In a stage's values the text ``@name`` stands for what the step of that name made."""

    stages: dict[str, TrainConfig] = field(default_factory=dict)
    seed: int = 0  # of every stage and of the simulated annotators
    # simulated, a ranking project (FILE.db or a URL), a file or folder of rankings; or ask, which samples answers
    # into a project and waits until people have ranked people.enough of them.
    rankings: str = "simulated"
    annotation: Any = None  # what is sampled and who ranks it, between instruction tuning and the reward model
    people: PeopleConfig = field(default_factory=PeopleConfig)
    win_rate: str | None = None  # a project of blind comparisons of its models: people's verdict in the report
    skip: list[str] = field(default_factory=list)  # steps to leave out, with what needs them
    start_from: str | None = None  # the step to recompute from
    init_from: str | None = None  # with start_from: a model folder in place of the step before
    pretrained_defaults: Any = "auto"  # false: no stage takes them; in a pipeline that did, what its other parts took
    ledger: bool = True  # evaluate every stage on every earlier stage's held-out sets
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    best_of_n: BestOfNConfig = field(default_factory=BestOfNConfig)
    report: bool = True
    export: ExportConfig = field(default_factory=ExportConfig)
    objective: str | None = None  # the stage whose objective sweeps compare; null: the last one
    paths: PathsConfig = field(default_factory=PathsConfig)
    cache_dir: str = "outputs/cache/stages"
    debug: Any = None  # what debug=NAME lays over every stage
    allowed_targets: list[str] = field(default_factory=list)


def register() -> None:
    """Make the schemas and resolvers known to Hydra that the files of conf/ use."""
    store = ConfigStore.instance()
    for name, kind in (("train_schema", TrainConfig), ("pipeline_schema", PipelineConfig)):
        if f"{name}.yaml" not in store.repo:
            store.store(name, kind)
    OmegaConf.register_new_resolver("first_given", first_given, replace=True)
    OmegaConf.register_new_resolver("usual", usual, replace=True)
    OmegaConf.register_new_resolver("usual_option", usual_option, replace=True)


def usual_option(group: str, stage: str) -> str:
    """The file of ``group`` (loss, reward) that is called as a stage, or none: ``${usual_option:loss,dpo}``."""
    return stage if stage in options(group) else "none"


def first_given(*values: Any) -> Any:
    """The first of the values that is not null."""
    return next((value for value in values if value is not None), None)


def usual(limit: Any, *others: Any) -> Any:
    """A run's usual limit, which gives way to another that is given: ``${usual:200,${.max_epochs},${.max_tokens}}``."""
    return limit if all(other is None for other in others) else None


def plain(config: Any) -> dict[str, Any]:
    """``config`` resolved into plain containers, in which a value from the environment stays ``${oc.env:NAME}``.

    This is the only form that is ever written, logged or printed, so that no secret reaches a file.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=False)
    asked = repr(config)
    if (known := _resolved.get(asked)) is None:
        with _reading({"oc.env": _keep_env, "oc.decode": _as_it_stands}):
            known = _to_plain(OmegaConf.create(config))
        if not PURE.issuperset(_RESOLVER.findall(asked)):
            return known
        while len(_resolved) >= KEPT:
            del _resolved[next(iter(_resolved))]
        _resolved[asked] = known
    return {key: _copied(value) for key, value in known.items()}


PURE = frozenset({"oc.env", "oc.decode", "oc.select", "first_given", "usual", "usual_option"})
"""Resolvers that give ``plain`` the same for the same words."""
KEPT = 4
_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")
_resolved: dict[str, dict[str, Any]] = {}
"""What ``plain`` found last: a run asks it for one configuration ten times."""


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


@contextmanager
def _reading(resolvers: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """With these resolvers in place of the usual ones."""
    original = dict(_resolvers())
    try:
        for name, resolver in resolvers.items():
            OmegaConf.register_new_resolver(name, resolver, replace=True)
        yield
    finally:
        _resolvers().clear()
        _resolvers().update(original)


def _as_it_stands(text: Any) -> Any:
    return text


def resolved(config: Any) -> dict[str, Any]:
    """``config`` as a part is built of it, variables of the environment and ``oc.decode`` read. A variable that is not
    set is 0, which a key of any kind takes."""
    with _reading({"oc.env": lambda name, default="0": os.environ.get(name, default)}):
        return _to_plain(config)


def written_to(whole: DictConfig) -> dict[str, Any]:
    """What Hydra's own part says about places and names, resolved: a value from the environment stays its mark, also
    where it comes by way of another key (``${data.path}``, ``${hydra.job.override_dirname}``)."""
    own = whole.hydra
    asked = {"hydra": lambda key: _or_empty(OmegaConf.select(own, key))}
    with _reading({"oc.env": _keep_env, "oc.decode": _as_it_stands, **asked}):
        found = {
            key: OmegaConf.to_container(own[key], resolve=True, throw_on_missing=False) for key in ("run", "sweep")
        }
        return {**found, "output_subdir": own.get("output_subdir"), "job": {"name": own.job.get("name")}}


def _or_empty(value: Any) -> Any:
    return "" if value is None else value  # a job's number, before there are jobs


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings as ("optimizer.lr", 3e-4); lists are leaves."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def texts(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration with its key: values, items of lists, and the paths of {path: weight}."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            if isinstance(value, int | float) and isinstance(name, str):
                yield key, name
            yield from texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from texts(value, key)
    elif isinstance(config, str):
        yield key, config


def environment(config: Any) -> dict[str, str]:
    """SHA-256 of what every environment variable that a plain configuration names holds now, salted by its name."""
    names = {name.strip() for _, text in texts(config) for name in _ENVIRONMENT.findall(text)}
    held = {name: os.environ[name] for name in sorted(names) if name in os.environ}
    return {name: hashlib.sha256(f"{name}\0{value}".encode()).hexdigest() for name, value in held.items()}


_ENVIRONMENT = re.compile(r"\$\{oc\.env:([^,}]+)")


def digest(value: Any) -> str:
    """SHA-256 of a plain value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def identity(config: Any) -> str:
    """What makes two runs the same run: every value but ``resume`` and where they run, and what the environment gives
    for them."""
    values = {key: value for key, value in plain(config).items() if key != "resume"}
    for run in (values, *(values.get("stages") or {}).values()):
        if isinstance(run.get("trainer"), dict):
            run["trainer"] = {key: value for key, value in run["trainer"].items() if key not in WHERE}
    return digest([values, environment(values)])


def save(config: Any, path: Path) -> None:
    """Write the resolved configuration, without secrets, as YAML that can be loaded and run again."""
    write_text(path, written(config))


def written(config: Any) -> str:
    """The text that :func:`save` writes."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(plain(config))))


def load(path: Path) -> DictConfig:
    """A configuration written by :func:`save`, against the schema again. Raises UserError for a file that is none."""
    loaded = OmegaConf.create(renamed.values(OmegaConf.to_container(yaml_files.load(path), resolve=False)))
    schema = PipelineConfig if "stages" in loaded else TrainConfig
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), loaded)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key or ''}: {next(iter(str(error).splitlines()), '')}") from None
    assert isinstance(merged, DictConfig)
    return merged


def _keep_env(name: str, *default: Any) -> str:
    if not default:
        return "${oc.env:" + name + "}"
    return "${oc.env:" + name + "," + json.dumps(default[0]) + "}"


def _resolvers() -> dict[str, Any]:
    from omegaconf.basecontainer import BaseContainer

    return BaseContainer._resolvers


def _to_plain(config: Any) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def restored(values: Mapping[str, Any]) -> DictConfig:
    """A run's configuration from its plain form, against the schema: environment marks are read again on access."""
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.create(_escaped(dict(values))))
    assert isinstance(merged, DictConfig)
    return merged


def _escaped(value: Any) -> Any:
    """Environment marks stay interpolations in the file; any other ``${`` in a value is text and is escaped."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, str) and "${" in value and "${oc.env:" not in value:
        return value.replace("${", "\\${")
    return value
