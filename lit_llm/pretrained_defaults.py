"""Rates, lengths and batches for a model that was pretrained elsewhere, by its number of weights and by LoRA or not.

The configuration files hold what suits the small models that are made here from random weights. A run that starts from
another model (``init_from``) takes what the user did not say from ``TABLE`` instead, says so, and saves it under
``pretrained_defaults``: a resumed run, an evaluation and the cache of a pipeline read it there and decide nothing anew.

Which model is another's: one without a lineage of ours, one whose lineage leads back to such a model, and any of
``SMALL`` weights or more. Nothing here imports torch: the weights are counted from config.json.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

from lit_llm import config as schema
from lit_llm.backbone.families import read_config
from lit_llm.errors import UserError
from lit_llm.given_values import Given
from lit_llm.overrides import conf_folder
from lit_llm.run_folder import RunFolder
from lit_llm.secrets import real
from lit_llm.steps import Step, begins_from

log = logging.getLogger("lit_llm")

KEY = "pretrained_defaults"
SMALL = 50_000_000  # weights; what is made here from random weights and is smaller keeps the values in conf/
ANCHORS = (135e6, 7e9)  # weights that a row's two rates are for

ROW = 1024  # tokens; where the context has them
PROMPT, ANSWER, SAMPLE = 512, 256, 128  # tokens; GSM8K: 64 hold 28% of the reference answers, 200 hold 98%
LAPTOP = 50e9  # floating-point operations a second
LARGE = 1e9  # weights from which half as much, or less, is computed at once


@dataclass(frozen=True)
class Row:
    """What one stage takes.

    Args:
        full: the learning rates at ``ANCHORS`` when all weights are trained.
        lora: the same with adapters: about ten times as much (Schulman et al. 2025, LoRA Without Regret).
        micro: rows, comparisons, completions or prompts computed at once below ``LARGE`` weights, and from there on.
        batch: of them a step; None: a rollout is one micro-batch (and ``micro`` its prompts).
        steps: None: as the configuration says.
    """

    full: tuple[float, float]
    lora: tuple[float, float]
    micro: tuple[int, int]
    batch: int | None
    steps: int | None = None


# Sources: "measured" is SmolLM2-135M-Instruct here (README, "A model from elsewhere").
TABLE: Mapping[str, Row] = {
    # Measured: at 1e-4 the domain is learned and general text kept, Muon's 2e-3 forgets 17% of it. 7B: Biderman et al.
    # 2024 (LoRA learns less and forgets less), full 1e-5 to 5e-5, adapters 2e-4.
    "ContinuedPretraining": Row((1e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    # SmolLM2's own: 3e-4 (1.7B) to 1e-3 (135M) with 128 rows of 8,192. 7B: Llama 2, Tulu 2: 2e-5. QLoRA: 2e-4.
    "FineTuning": Row((3e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    "InstructionTuning": Row((3e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    # BERT's grid for classifiers of 110M to 340M: 2e-5 to 5e-5.
    "FlagClassification": Row((5e-5, 1e-5), (3e-4, 1e-4), (8, 2), 32),
    # InstructGPT 6B: 9e-6; Tulu 3 8B: 3e-6; TRL's example at 0.5B: 1e-5, adapters 1e-4.
    "RewardModeling": Row((2e-5, 5e-6), (2e-4, 5e-5), (2, 1), 32),
    # SmolLM2's own: 1e-6 (128 rows, two epochs of 60,000); Zephyr, Tulu 3: 5e-7 (7B, 8B), adapters 5e-6.
    "PreferenceOptimization": Row((2e-6, 5e-7), (2e-5, 5e-6), (2, 1), 32),
    # TRL: 5e-7 to 5e-6.
    "KTO": Row((2e-6, 5e-7), (2e-5, 5e-6), (8, 2), 32),
    # TRL's PPO at 1B: 3e-6; Tulu 3 8B: 1e-7 to 3e-7 for many more steps.
    "PPO": Row((3e-6, 1e-6), (3e-5, 1e-5), (16, 16), None),
    # TRL, at every size: 1e-6, adapters 1e-5.
    "GRPO": Row((1e-6, 1e-6), (1e-5, 1e-5), (8, 8), None, 50),
}
TABLE = {**TABLE, "Pretraining": TABLE["ContinuedPretraining"]}  # pretraining of a trained model is continued


@dataclass(frozen=True)
class Model:
    """What can be known of a model folder before torch is there."""

    weights: int
    context: int  # positions
    ours: bool  # made here from random weights, as all that it was made from

    @property
    def keeps_conf(self) -> bool:
        return self.ours and self.weights < SMALL


# The one entry


def settled(cfg: DictConfig, given: Given, folder: Path | None = None) -> DictConfig:
    """The configuration of a run or a pipeline with the table's values where the user gave none.

    ``folder`` is the run's: what was decided in it before stays. Raises UserError for a wrong ``pretrained_defaults``.
    """
    cfg = copy.deepcopy(cfg)
    if "stages" in cfg:
        _settle_pipeline(cfg, given)
    elif (saved := _decided(cfg, folder)) is not None:
        _put(cfg, "", saved.get(KEY), given)
    else:
        _settle_run(cfg, "", _folder(_raw(cfg)["init_from"]), given)
    return cfg


def _decided(cfg: DictConfig, folder: Path | None) -> Mapping[str, Any] | None:
    """The configuration saved in the folder of a run that is resumed; None: nothing is decided yet."""
    place = cfg.resume if cfg.resume not in (None, "auto") else folder
    if cfg.resume is None or place is None or not RunFolder(place).config.is_file():
        return None
    try:
        return schema.plain(OmegaConf.load(RunFolder(place).config))
    except Exception:  # a damaged file is told by the check that compares it
        return {}


def _settle_run(cfg: DictConfig, prefix: str, place: Path | None, given: Given) -> Model | None:
    """Returns the model where the table was taken for it."""
    run = _node(cfg, prefix)
    model = known(place) if place is not None and _wanted(run, prefix) is not False else None
    row = TABLE.get(str(run.stage.get("_target_")).rpartition(".")[2]) if "_target_" in (run.stage or {}) else None
    if model is None or row is None or (model.keeps_conf and _wanted(run, prefix) == "auto"):
        return None
    adapters = bool(run.stage.get("lora_rank"))
    values = dict(_values(run, prefix, row, model, adapters, given))
    _put(cfg, prefix, {"weights": model.weights, "adapters": adapters, "values": values}, given)
    return model


def _wanted(run: DictConfig, prefix: str) -> Any:
    """auto, true or false; a mapping is what was decided before, in a configuration that is used again."""
    wanted = run.get(KEY, "auto")
    if wanted == "auto" or isinstance(wanted, bool):
        return wanted
    if isinstance(wanted, DictConfig):
        return False
    raise UserError(f"{prefix}{KEY}={wanted}: must be auto, true or false")


def _settle_pipeline(cfg: DictConfig, given: Given) -> None:
    """Every stage whose model goes back to a folder from elsewhere, and what has that model's answers ranked."""
    if cfg.get(KEY) is False:
        return
    raw = _raw(cfg)
    steps = {name: Step(name, run) for name, run in raw["stages"].items()}
    start, init_from = steps.get(str(raw["start_from"])), raw["init_from"]
    replaced = begins_from(start) if start is not None and init_from is not None else None
    models = {}
    for name, step in steps.items():
        models[name] = _settle_run(cfg, f"stages.{name}.", _origin(step, steps, replaced, init_from), given)
    asked = begins_from(Step("rankings", raw["rankings"] or {}))
    model = known(_folder(init_from)) if asked is not None and asked == replaced else models.get(str(asked))
    if model is not None and not model.keeps_conf:
        values = dict(_missing(cfg, "", _answers_of_chain(model), given))
        _put(cfg, "", {"weights": model.weights, "values": values}, given)


def _origin(step: Step, steps: Mapping[str, Step], replaced: str | None, init_from: Any) -> Path | None:
    """The folder that a stage's model goes back to: pipelines begin from it, or from random weights (None)."""
    for _ in steps:
        parent = begins_from(step)
        if parent is None:
            return _folder(step.config.get("init_from"))
        if parent == replaced:
            return _folder(init_from)
        if parent not in steps:
            return None
        step = steps[parent]
    return None


def _answers_of_chain(model: Model) -> Iterator[tuple[str, Any]]:
    answer, at_once = _answer(model), _at_once(model)
    for node in ("rankings", "best_of_n", "answers"):
        yield f"{node}.max_new_tokens", answer
        if node != "answers":
            yield f"{node}.batch_size", at_once


# A model folder


def known(place: Path | None) -> Model | None:
    """None where no model can be read: whatever loads it says what is wrong."""
    try:
        config, head, _ = read_config(real(place) / "config.json") if place is not None else (None, None, None)
    except UserError:
        return None
    if config is None or place is None:
        return None
    weights = config.num_parameters if head == "language" else config.backbone_parameters
    return Model(weights, config.max_positions, from_random_weights_here(place))


def from_random_weights_here(place: Path) -> bool:
    """Whether a folder's lineage leads back to a model that was pretrained here. A parent that lies no longer where the
    lineage says was made here, since it has a lineage; what it was made from is told by the configuration."""
    for _ in range(100):
        lineage = _lineage(real(place))
        if lineage is None or isinstance(lineage["config"].get(KEY), Mapping):
            return False
        parent = next((one for one in lineage["parents"] if one.get("role") == "init_from"), None)
        if parent is None:
            return lineage["config"].get("init_from") is None
        if parent.get("digest") is None:
            return False
        place = place / str(parent.get("path"))
        if not (real(place) / "lineage.json").is_file():
            return True
    return False


def _lineage(place: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((place / "lineage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(found, dict) and isinstance(found.get("config"), dict) and isinstance(found.get("parents"), list)
    return found if good else None


def _folder(text: Any) -> Path | None:
    return Path(str(text)).expanduser() if text and not str(text).startswith("@") else None


# What the table says of a run


def rate(anchors: tuple[float, float], weights: int) -> float:
    """Between the anchors on a straight line of logarithms, beyond them as at the nearer one; two digits."""
    low, high = (math.log(each) for each in ANCHORS)
    share = min(1.0, max(0.0, (math.log(max(weights, 1)) - low) / (high - low)))
    found = math.exp((1 - share) * math.log(anchors[0]) + share * math.log(anchors[1]))
    return float(f"{found:.1e}")


def _values(
    run: DictConfig, prefix: str, row: Row, model: Model, adapters: bool, given: Given
) -> Iterator[tuple[str, Any]]:
    """(key, value) of all that the run has and the user did not give."""
    yield from _missing(run, prefix, _optimizer(run, prefix, row, model, adapters, given), given)
    yield from _missing(run, prefix, _lengths(run, prefix, row, model, given), given)
    yield from _missing(run, prefix, _batches(run, prefix, row, model, given), given)
    limits = ("max_steps", "max_epochs", "max_tokens", "max_time", "fast_dev_run")
    if row.steps is not None and not any(given.has(f"{prefix}trainer.{key}") for key in limits):
        interval = {"trainer.val_check_interval": row.steps // 4}
        yield from _missing(run, prefix, {"trainer.max_steps": row.steps, **interval}.items(), given)


def _missing(cfg: DictConfig, prefix: str, values: Any, given: Given) -> Iterator[tuple[str, Any]]:
    for key, value in values:
        if _exists(cfg, key) and not given.has(prefix + key):
            yield key, value


def _exists(cfg: DictConfig, key: str) -> bool:
    node, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, node) if node else cfg
    return name == "optimizer" or (isinstance(parent, DictConfig) and name in parent)


def _optimizer(
    run: DictConfig, prefix: str, row: Row, model: Model, adapters: bool, given: Given
) -> Iterator[tuple[str, Any]]:
    """AdamW, unless the user chose: Muon's update is scaled to AdamW's size and takes the same rate."""
    found = rate(row.lora if adapters else row.full, model.weights)
    adamw = set(_adamw())
    chosen = f"{prefix}optimizer" in given.groups or not set(given.within(f"{prefix}optimizer")) <= adamw
    if not chosen and run.optimizer.get("_target_") != _adamw()["_target_"]:
        yield "optimizer", "adamw"
    yield "optimizer.lr", found
    if chosen:
        yield "optimizer.muon_lr", found


def _lengths(run: DictConfig, prefix: str, row: Row, model: Model, given: Given) -> Iterator[tuple[str, Any]]:
    """Never more than the context of the model, and of what scores its answers, holds."""
    yield "data.max_length", min(ROW, model.context)
    answer = _answer(model)
    if "max_new_tokens" in run.stage:
        answer = _answer(_shortest(run, model))
        yield "stage.max_new_tokens", answer
        answer = run.stage.max_new_tokens if given.has(f"{prefix}stage.max_new_tokens") else answer
        yield "data.max_prompt_length", max(1, min(PROMPT, _shortest(run, model).context - answer))
    yield "evaluation.max_new_tokens", answer
    yield "evaluation.batch_size", _at_once(model)
    if run.callbacks.get("samples") is not None:
        yield "callbacks.samples.max_new_tokens", min(SAMPLE, answer)
    if run.data.get("ptx_path") is not None:
        yield "data.ptx_max_length", min(ROW, model.context)
        yield "data.ptx_micro_batch_size", 2 if model.weights < LARGE else 1


def _shortest(run: DictConfig, model: Model) -> Model:
    """The policy, or a reward model that reads its answers and has the shorter context."""
    stage = _raw(run)["stage"]
    texts = [text for key in ("reward", "gold") for _, text in schema.texts(stage.get(key))]
    folders = [text for text in texts if text and len(text) < 4096 and "\0" not in text]
    found = [other for text in folders if (other := known(_folder(text))) is not None]
    return min([model, *found], key=lambda each: each.context)


def _answer(model: Model) -> int:
    return max(1, min(ANSWER, model.context // 2))


def _at_once(model: Model) -> int:
    """Answers written side by side: each holds keys and values of all its tokens."""
    return 16 if model.weights < LARGE else 8


def _batches(run: DictConfig, prefix: str, row: Row, model: Model, given: Given) -> Iterator[tuple[str, Any]]:
    """Micro-batches that fit, and a step's rows as a whole number of them on every device."""
    micro = row.micro[model.weights >= LARGE]
    if row.batch is None:
        yield "data.micro_batch_size", micro
        yield "stage.micro_batch_size", 8 if model.weights < LARGE else 2
        return
    devices, batch = run.trainer.devices * run.trainer.num_nodes, row.batch
    total = run.trainer.global_batch_size if given.has(f"{prefix}trainer.global_batch_size") else None
    if given.has(f"{prefix}data.micro_batch_size"):
        micro = run.data.micro_batch_size
    elif total is not None:
        micro = next((each for each in range(micro, 1, -1) if total % (each * devices) == 0), 1)
    yield "data.micro_batch_size", micro
    yield "trainer.global_batch_size", micro * devices * max(1, round(batch / (micro * devices)))


# Into the configuration


def _put(cfg: DictConfig, prefix: str, decided: Any, given: Given) -> None:
    """Write what was decided into the run, less what the user gives (a resumed run may be given more than before)."""
    if not isinstance(decided, Mapping) or not isinstance(decided.get("values"), Mapping):
        return
    values = {key: value for key, value in decided["values"].items() if not given.has(prefix + key)}
    with open_dict(cfg):
        run = _node(cfg, prefix)
        if values.get("optimizer") == "adamw":
            adamw = _adamw()
            kept = {key: run.optimizer[key] for key in adamw if key in run.optimizer and not key.startswith("_")}
            run.optimizer = {**adamw, **kept}
        for key, value in values.items():
            if key != "optimizer":
                OmegaConf.update(run, key, value)
        run[KEY] = {**decided, "values": values}


def _adamw() -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "optimizer/adamw.yaml"))
    return dict(found)


def _raw(cfg: DictConfig) -> dict[str, Any]:
    """As plain containers, unresolved: a mark whose variable is not set is told by the validation."""
    found: Any = OmegaConf.to_container(cfg, resolve=False)
    return dict(found)


def _node(cfg: DictConfig, prefix: str) -> DictConfig:
    found = OmegaConf.select(cfg, prefix.rstrip(".")) if prefix else cfg
    assert isinstance(found, DictConfig)
    return found


# What is said of it


def tell(cfg: DictConfig) -> None:
    """The block at the start of a run."""
    for line in lines(schema.plain(cfg)):
        log.info("%s", line)


def lines(values: Mapping[str, Any]) -> Iterator[str]:
    """What was taken from the table, why, and how much work it comes to; nothing where nothing was."""
    decided = values.get(KEY)
    if not isinstance(decided, Mapping):
        return
    weights = decided["weights"]
    how = {True: ", adapters trained", False: ", all of them trained", None: ""}[decided.get("adapters")]
    yield f"a pretrained model of {weights:,} weights{how}: what was not given is taken from the table for its size"
    groups: dict[str, list[str]] = {}
    for key, value in decided["values"].items():
        groups.setdefault(key.partition(".")[0], []).append(f"{key}={value}")
    yield from (f"  {' '.join(each)}" for each in groups.values())
    if "stages" not in values:
        yield from _work(values, weights)
        yield f"  what is given wins: {_example(decided['values'])}; {KEY}=false keeps what conf/ says"


def _example(taken: Mapping[str, Any]) -> str:
    return next((f"{key}={value}" for key, value in taken.items() if key.endswith(".lr")), "optimizer.lr=VALUE")


def _work(values: Mapping[str, Any], weights: int) -> Iterator[str]:
    """An upper bound: rows are counted full. Training takes 6 operations a weight and token (Kaplan et al. 2020)."""
    steps, tokens, stage = values["trainer"]["max_steps"], step_tokens(values), values["stage"]
    if tokens is None:
        return
    sampled = "sampled " if "max_new_tokens" in stage else ""
    if steps is None:
        yield f"  at most {tokens:,} {sampled}tokens a step"
        return
    operations = 6 * (1 + stage.get("epochs", 0)) * weights * tokens * steps
    hours = operations / LAPTOP / 3600
    about = f"{hours:.0f} hours" if hours >= 1.5 else f"{max(1, round(60 * hours))} minutes"
    yield (
        f"  at most {tokens * steps:,} {sampled}tokens in {steps} steps of {tokens:,}, about {about} on a laptop's "
        f"processor ({LAPTOP / 1e9:.0f} GFLOP/s); trainer.max_steps=N sets it"
    )


def step_tokens(values: Mapping[str, Any]) -> int | None:
    """Positions of a step, every row counted full; None where the data has no rows of one length."""
    data, stage, trainer = values["data"], values["stage"], values["trainer"]
    devices = trainer["devices"] * trainer["num_nodes"]
    micro = data.get("micro_batch_size")
    if micro is None:
        return None
    if "max_new_tokens" in stage:
        return int(micro * devices * stage.get("group_size", 1) * stage["max_new_tokens"])
    if data.get("max_length") is None:
        return None
    completions = 2 if "loss" in stage else 1  # a row of preferences is a comparison
    return int((trainer["global_batch_size"] or micro * devices) * completions * data["max_length"])
