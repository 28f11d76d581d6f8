"""What a run takes that starts from a model pretrained elsewhere: decided once, said, and saved with the run.

The configuration files hold what suits the small models that are made here from random weights. A run that starts from
another model (``init_from``) takes what the user did not give from ``pretrained_table.TABLE`` in their place and keeps
it under ``pretrained_defaults``: a resumed run, an evaluation and a pipeline's cache read it there, and decide nothing.

Which model is another's: one without a lineage of ours, one whose lineage leads back to such a model, and any of
``SMALL`` weights or more. Nothing here imports torch.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config import schema
from lit_llm.config.given_values import Given
from lit_llm.config.model_names import with_folders
from lit_llm.config.pipeline_steps import Step, begins_from
from lit_llm.config.pretrained_model import KEY, Model, folder_named, known
from lit_llm.config.pretrained_table import TABLE, adamw, answer_length, at_once, not_given, values_for
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.counted import counted
from lit_llm.runtime.run_folder import RunFolder

log = logging.getLogger("lit_llm")

GROUPS = ("stage", "data", "optimizer", "callbacks")
LAPTOP = 50e9  # floating-point operations a second

# The one entry


def settled(cfg: DictConfig, asked: Callable[[], Given], folder: Path | None = None) -> DictConfig:
    """The configuration of a run or a pipeline with the table's values where the user gave none, and with folders in
    place of models by other names.

    ``asked`` says what was given, where that matters. ``folder`` is the run's: what was decided in it before stays.
    Raises UserError for a wrong ``pretrained_defaults``.
    """
    cfg = with_folders(cfg)
    try:
        if not any(True for _ in _beginnings(cfg)):
            return cfg
        found, given = copy.deepcopy(cfg), asked()
        if "stages" in found:
            _settle_pipeline(found, given)
        elif (saved := _decided(found, folder)) is not None:
            _put(found, "", saved.get(KEY), given)
        else:
            _settle_run(found, "", folder_named(found.init_from), given)
    except OmegaConfBaseException:  # a value that cannot be resolved: the validation names it
        return cfg
    return found


def _beginnings(cfg: DictConfig) -> Iterator[Path]:
    """The folders that a run, or a stage of a pipeline, begins from."""
    runs = cfg.stages.values() if "stages" in cfg else ()
    for text in (cfg.init_from, *(run.init_from for run in runs)):
        if (place := folder_named(text)) is not None:
            yield place


def _decided(cfg: DictConfig, folder: Path | None) -> Mapping[str, Any] | None:
    """The configuration saved in the folder of a run that is resumed; None: nothing is decided yet."""
    place = cfg.resume if cfg.resume not in (None, "auto") else folder
    if cfg.resume is None or place is None or not RunFolder(place).config.is_file():
        return None
    try:
        saved = OmegaConf.load(RunFolder(place).config)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):  # whoever compares it says what is wrong
        return {}
    return schema.plain(saved) if isinstance(saved, DictConfig) else {}


def _settle_run(cfg: DictConfig, prefix: str, place: Path | None, given: Given) -> Model | None:
    """Returns the model where the table was taken for it."""
    run = _node(cfg, prefix)
    model = known(place) if place is not None and _wanted(run, prefix) is not False else None
    if not all(isinstance(run.get(group), DictConfig) for group in GROUPS):
        return None  # no such option: the validation says so
    row = TABLE.get(str(run.stage.get("_target_")).rpartition(".")[2])
    if model is None or row is None or (model.keeps_conf and _wanted(run, prefix) == "auto"):
        return None
    trained = "adapters" if run.stage.get("lora_rank") else "head" if run.stage.get("trained") == "head" else "all"
    values = dict(values_for(run, prefix, row, model, trained, given))
    _put(cfg, prefix, {"weights": model.weights, "trained": trained, "values": values}, given)
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
    steps = {str(name): Step(str(name), {"init_from": run.init_from}) for name, run in cfg.stages.items()}
    start, init_from = steps.get(str(cfg.start_from)), cfg.init_from
    replaced = begins_from(start) if start is not None and init_from is not None else None
    models = {}
    for name, step in steps.items():
        models[name] = _settle_run(cfg, f"stages.{name}.", _origin(step, steps, replaced, init_from), given)
    asked = begins_from(Step("rankings", {"model": (cfg.annotation or {}).get("model")}))
    model = known(folder_named(init_from)) if asked is not None and asked == replaced else models.get(str(asked))
    if model is not None and not model.keeps_conf:
        values = dict(not_given(cfg, "", _answers_of_chain(model), given))
        _put(cfg, "", {"weights": model.weights, "values": values}, given)


def _origin(step: Step, steps: Mapping[str, Step], replaced: str | None, init_from: Any) -> Path | None:
    """The folder that a stage's model goes back to: pipelines begin from it, or from random weights (None)."""
    for _ in steps:
        parent = begins_from(step)
        if parent is None:
            return folder_named(step.config.get("init_from"))
        if parent == replaced:
            return folder_named(init_from)
        if parent not in steps:
            return None
        step = steps[parent]
    return None


def _answers_of_chain(model: Model) -> Iterator[tuple[str, Any]]:
    answer, batch = answer_length(model), at_once(model)
    for node in ("annotation", "best_of_n", "answers"):
        yield f"{node}.max_new_tokens", answer
        if node != "answers":
            yield f"{node}.batch_size", batch


# Into the configuration


def _put(cfg: DictConfig, prefix: str, decided: Any, given: Given) -> None:
    """Write what was decided into the run, less what the user gives (a resumed run may be given more than before)."""
    if not isinstance(decided, Mapping) or not isinstance(decided.get("values"), Mapping):
        return
    values = {key: value for key, value in decided["values"].items() if not given.has(prefix + key)}
    with open_dict(cfg):
        run = _node(cfg, prefix)
        if values.get("optimizer") == "adamw":
            new = adamw()
            kept = {key: run.optimizer[key] for key in new if key in run.optimizer and not key.startswith("_")}
            run.optimizer = {**new, **kept}
        for key, value in values.items():
            if key != "optimizer":
                OmegaConf.update(run, key, value)
        run[KEY] = {**decided, "values": values}


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
    trained = f" ({decided['trained']} trained)" if "trained" in decided else ""
    yield f"a pretrained model of {weights:,} weights{trained}: what was not given is taken from the table for its size"
    groups: dict[str, list[str]] = {}
    for key, value in decided["values"].items():
        groups.setdefault(key.partition(".")[0], []).append(f"{key}={value}")
    yield from (f"  {' '.join(each)}" for each in groups.values())
    if "stages" not in values:
        yield from _work(values, weights)
        yield f"  another value given wins, such as {_example(decided['values'])}; {KEY}=false keeps what conf/ says"


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
    about = f"{hours:.0f} h" if hours >= 1.5 else f"{math.ceil(60 * hours)} min"
    yield (
        f"  at most {tokens * steps:,} {sampled}tokens in {counted(steps, 'step')} of {tokens:,}, about {about} on "
        f"a laptop's processor ({LAPTOP / 1e9:.0f} GFLOP/s); trainer.max_steps=N sets it"
    )


def step_tokens(values: Mapping[str, Any]) -> int | None:
    """Positions of a step, every row counted full; None where the data has no rows of one length."""
    data, stage, trainer = values["data"], values["stage"], values["trainer"]
    processes = devices.shares(trainer)
    micro = data.get("micro_batch_size")
    if micro is None:
        return None
    if "max_new_tokens" in stage:
        return int(micro * processes * stage.get("group_size", 1) * stage["max_new_tokens"])
    if data.get("max_length") is None:
        return None
    completions = 2 if "loss" in stage else 1  # a row of preferences is a comparison
    return int((trainer["global_batch_size"] or micro * processes) * completions * data["max_length"])
