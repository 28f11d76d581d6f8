"""Checks a composed configuration before anything heavy is imported: every mistake at once, one line each.

Each line names the key, its value and what would be right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.backbone.options import TransformersOptions
from lit_llm.config import monitored_metrics, renamed, run_objective, schema, sharded_runs, stage_losses, targets
from lit_llm.config.annotations import fits, in_words
from lit_llm.config.conf_files import INSIDE_THE_STAGE
from lit_llm.config.environment import named_by_environment, passwords_in
from lit_llm.config.export_keys import ExportConfig, wrong_export
from lit_llm.config.pipeline_keys import AnswersConfig, BestOfNConfig, PeopleConfig
from lit_llm.config.pipeline_steps import runs
from lit_llm.config.ranges import out_of_range
from lit_llm.config.resume_compatibility import change_from
from lit_llm.config.signatures import Signature, signature
from lit_llm.config.slurm_keys import LAUNCHERS, SlurmConfig
from lit_llm.config.slurm_keys import faults as slurm_faults
from lit_llm.errors import UserError
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.suggestions import hint

CONVERSIONS = ("none", "partial", "object", "all")
TIME = re.compile(r"\d{1,3}:\d{1,2}:\d{1,2}:\d{1,2}")
# What a caller in this package passes to a user's part at call time, by the root key of the partial; to a part of this
# package what its options call GIVEN.
PASSED_AT_CALL = {
    "stage": {"model", "tokenizer", "optimizer", "schedule"},
    "data": {"tokenizer"},
    "tokenizer": {"texts"},
    "backbone": {"vocab_size"},
    "logger": {"folder"},
    "annotation": {"output"},
}


def validate(cfg: DictConfig) -> dict[str, Any]:
    """The plain form of a configuration that can be run. Raises UserError with every finding, one a line."""
    try:
        values = schema.plain(cfg)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or ''}: {str(error).splitlines()[0]}") from None
    findings = [*named_by_environment(values), *passwords_in(values), *_not_set(values)] or list(_missing(cfg, values))
    if findings:  # what is missing cannot be resolved: the rest is checked when it is there
        raise UserError("\n".join(findings))
    findings = list(dict.fromkeys([*findings_in(values), *_told_by_environment(cfg, values)]))
    if findings:
        raise UserError("\n".join(findings))
    return values


def findings_in(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the plain form (``config.plain``) of a run's or a pipeline's configuration."""
    yield from out_of_range(values)
    for prefix, run in runs(values):
        yield from _check_run(prefix, run)
    if "stages" in values:
        yield from _check_pipeline(values)


def _told_by_environment(cfg: DictConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that the environment gives (``${oc.decode:${oc.env:RATE}}``) have ranges too; their marks are shown."""
    shown = dict(schema.flat(values))
    if not any("${" in str(value) for value in shown.values()):
        return
    for line in out_of_range(OmegaConf.to_container(cfg, resolve=True)):
        key, _, rest = line.partition("=")
        if "${" in str(shown.get(key)):
            yield f"{key}={shown[key]}: {rest.partition(': ')[2]}"


def _missing(cfg: DictConfig, values: Mapping[str, Any]) -> Iterator[str]:
    if any(text == MISSING for _, text in schema.texts(values)):  # to go through all keys takes long
        for key in sorted(OmegaConf.missing_keys(cfg)):
            yield f"{key}: no value; give it as {key}=VALUE"


def _not_set(values: Mapping[str, Any]) -> Iterator[str]:
    """What the environment is to tell and does not. A mark with a default has a comma after the name."""
    for key, text in schema.texts(values):
        for name in re.findall(r"\$\{oc\.env:([^,}]+)\}", text):
            if name not in os.environ:
                yield f"{key}={text}: the environment variable {name} is not set; export {name}=VALUE"


def _check_pipeline(values: Mapping[str, Any]) -> Iterator[str]:
    yield from _check_keys("", values, schema.PipelineConfig)
    ranked = values["annotation"] or values["rankings"] != "simulated"
    steps = [*values["stages"], *(["rankings"] if ranked else [])]
    for key, value in (
        ("start_from", values["start_from"]),
        ("objective", values["objective"]),
        *(("skip", name) for name in values["skip"]),
    ):
        if value is not None and value not in steps:
            yield f"{key}={value}: no step of this name; {hint(value, steps)}"
    if values["init_from"] is not None and values["start_from"] is None:
        yield f"init_from={values['init_from']}: say from which step on it is used: start_from=NAME"
    allowed = (*targets.ALLOWED, *values["allowed_targets"])
    yield from _check_allowed("", values["allowed_targets"])
    yield from _check_keys("answers.", values["answers"], AnswersConfig)
    yield from _check_best_of_n(values["best_of_n"], list(values["stages"]), allowed)
    yield from _check_keys("export.", values["export"], ExportConfig)
    yield from wrong_export(values["export"])
    yield from _check_keys("people.", values["people"], PeopleConfig)
    yield from _check_keys("paths.", values["paths"], schema.PathsConfig)
    if values["annotation"] is not None:
        yield from _check_node("annotation", values["annotation"], "annotation", allowed)
    if ((values["debug"] or {}).get("trainer") or {}).get("fast_dev_run"):
        yield "debug=fast_dev_run: keeps no model, which the next stage needs; debug=limit does"
    named = {"stages": values["stages"], "annotation": values["annotation"] or {}, "best_of_n": values["best_of_n"]}
    for path, value in schema.flat(named):
        if isinstance(value, str) and value.startswith("@") and value[1:].split("/")[0] not in steps:
            yield f"{path}={value}: no step of this name; {hint(value[1:], steps)}"


def _check_best_of_n(values: Mapping[str, Any], stages: Sequence[str], allowed: Sequence[str]) -> Iterator[str]:
    yield from _check_keys("best_of_n.", values, BestOfNConfig)
    if values["n"] == 1:
        yield f"best_of_n.n={values['n']}: must be 2 or more answers to choose from, or 0"
    for key in ("model", "proxy"):
        if values["n"] and values[key] not in stages:
            yield f"best_of_n.{key}={values[key]}: no step of this name; {hint(values[key], stages)}"
    if values["gold"] is not None:
        yield from _check_node("best_of_n.gold", values["gold"], "reward", allowed)


def _check_run(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    allowed = (*targets.ALLOWED, *values["allowed_targets"])
    yield from _check_allowed(prefix, values["allowed_targets"])
    yield from _check_keys(prefix, values, schema.TrainConfig)
    yield from _check_keys(f"{prefix}trainer.", values["trainer"], schema.TrainerConfig)
    yield from _check_keys(f"{prefix}trainer.slurm.", values["trainer"]["slurm"], SlurmConfig)
    yield from slurm_faults(f"{prefix}trainer.slurm.", values["trainer"]["slurm"])
    yield from _check_keys(f"{prefix}evaluation.", values["evaluation"], schema.EvaluationConfig)
    yield from _check_keys(f"{prefix}paths.", values["paths"] or {}, schema.PathsConfig)
    for group in ("stage", "backbone", "tokenizer", "data", "optimizer", "schedule", "logger"):
        node = values[group]
        if node == {} and group == "logger":  # conf/logger/none.yaml
            continue
        if isinstance(node, Mapping):
            yield from _check_node(prefix + group, node, group, allowed)
        elif node is not None:
            yield f"{prefix}{group}={node}: no such {group}; groups are chosen by the name of a file in conf/{group}/"
    for name, node in values["callbacks"].items():
        if node is not None:
            yield from _check_node(f"{prefix}callbacks.{name}", node, "callbacks", allowed)
    for name, node in values["evaluation"]["scorers"].items():
        yield from _check_node(f"{prefix}evaluation.scorers.{name}", node, "reward", allowed)
    yield from stage_losses.faults(prefix, values["stage"])
    yield from run_objective.faults(prefix, values)
    yield from monitored_metrics.faults(prefix, values)
    yield from _check_trainer(prefix + "trainer.", values["trainer"])
    yield from _check_recomputed(prefix, values)
    yield from _check_quantization(prefix, values)
    yield from sharded_runs.faults(prefix, values)
    data = values["data"] if isinstance(values["data"], Mapping) else {}
    if data.get("micro_batch_size") == "auto" and values["trainer"]["global_batch_size"] is None:
        yield f"{prefix}data.micro_batch_size=auto: needs trainer.global_batch_size, a step's rows, which it divides"
    if values["resume"] not in (None, "auto"):
        changed = change_from(values, RunFolder(values["resume"]))
        if changed is not None:
            yield changed


def _check_allowed(prefix: str, allowed: Sequence[str]) -> Iterator[str]:
    for name in targets.bad_prefixes(allowed):
        yield f"{prefix}allowed_targets={name!r}: no package's name; write it as allowed_targets=[my_package.]"


def _check_keys(path: str, values: Mapping[str, Any], schema_class: type) -> Iterator[str]:
    """Hydra's + adds keys even to a structured root."""
    known = list(schema_class.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in values:
        if key not in known:
            yield f"{path}{key}={values[key]}: unknown key; {hint(str(key), known)}"


def _check_node(path: str, node: Any, role: str, allowed: Sequence[str]) -> Iterator[str]:
    """A group's content: its own target, and every target below it."""
    if not isinstance(node, Mapping):
        yield f"{path}={node}: must be a mapping with a _target_"
        return
    if "_target_" not in node:
        yield f"{path}: has no _target_; write the dotted path of what to build"
        return
    yield from _check_below(path, node, role, allowed)


def _check_below(path: str, value: Any, role: str, allowed: Sequence[str]) -> Iterator[str]:
    for key, kind, node in targets.nodes(value, path, role):
        yield from _check_target(key, node, kind, allowed)


def _check_target(path: str, node: Mapping[str, Any], role: str, allowed: Sequence[str]) -> Iterator[str]:
    target = node["_target_"]
    reason = targets.refusal(target, role, allowed)
    if reason is not None:
        yield f"{path}._target_={target}: {reason}"
        return
    try:
        found = signature(target)
    except UserError as error:
        yield f"{path}._target_={error}"
        return
    options = found.options
    later = PASSED_AT_CALL.get(role, set()) if options is None else set(options.GIVEN)
    findings = list(_check_values(path, {k: v for k, v in node.items() if v is not None or k not in later}, found))
    yield from findings or _check_options(path, node, found)
    yield from _check_hydra_keys(path, node, ours=options is not None)
    if not node.get("_partial_") or role in PASSED_AT_CALL:
        given = set(node) | later
        missing = [each.name for each in found.parameters if each.required and each.name not in given]
        for name in missing if not node.get("_args_") else ():
            yield f"{path}.{name}: no value; give it as {path}.{name}=VALUE"
    if options is None:
        return
    at_call = [name for name in options.GIVEN if node.get(name) is None]
    if at_call and not node.get("_partial_"):
        told = f"{' and '.join(at_call)} {'is' if len(at_call) == 1 else 'are'} given when it is built"
        yield f"{path}._partial_={node.get('_partial_')}: must be true; {told}"
    if role == "reward" and node.get("_partial_") and not options.GIVEN:
        yield f"{path}._partial_=True: must be false; a reward is an object of this class"


def _check_hydra_keys(path: str, node: Mapping[str, Any], ours: bool) -> Iterator[str]:
    """The keys that Hydra reads beside ``_target_``."""
    for key in ("_partial_", "_recursive_"):
        if key in node and not isinstance(node[key], bool):
            yield f"{path}.{key}={node[key]}: must be true or false"
    if "_convert_" in node and node["_convert_"] not in CONVERSIONS:
        yield f"{path}._convert_={node['_convert_']}: must be one of {', '.join(CONVERSIONS)}"
    if node.get("_args_") and (ours or not isinstance(node["_args_"], list)):
        yield f"{path}._args_={node['_args_']}: give every value by its name"


def _check_values(path: str, node: Mapping[str, Any], found: Signature) -> Iterator[str]:
    known = {parameter.name: parameter for parameter in found.parameters}
    for key, value in node.items():
        if key in targets.HYDRA_KEYS:
            continue
        if key not in known:
            if str(key).startswith("_") and str(key).endswith("_"):
                yield f"{path}.{key}={value}: unknown key; {hint(str(key), sorted(targets.HYDRA_KEYS))}"
            elif not found.open and renamed.KEYS.get(str(key)) in known:
                yield f"{path}.{key}={value}: is called {path}.{renamed.KEYS[str(key)]} now"
            elif not found.open and key in INSIDE_THE_STAGE:
                other = INSIDE_THE_STAGE[key]
                yield f"{path}.{key}: this stage takes no {key}; choose one that does, such as stage={other}"
            elif not found.open:
                yield f"{path}.{key}={value}: unknown key; {hint(str(key), list(known))}"
            continue
        kind = known[key].type
        if not _reference(value) and not fits(value, kind):
            yield f"{path}.{key}={value!r}: must be {in_words(kind)}"


def _check_options(path: str, node: Mapping[str, Any], found: Signature) -> Iterator[str]:
    """What options of this package say of each other, once each is of its type and in its range. Somebody else's are
    asked when they are built."""
    options = found.options
    if options is None:
        return
    parts = (*options.NEEDS, *options.TAKES)
    known = {each.name: each for each in found.parameters if each.name not in parts}
    given = {key: value for key, value in node.items() if key in known}
    missing = any(each.required and each.name not in given for each in known.values())
    wrong = any(not fits(value, known[key].type) for key, value in given.items())
    if missing or wrong or any(out_of_range({**given, "_target_": node["_target_"]})):
        return
    try:
        options(**given)
    except UserError as error:
        if "${oc." not in str(error):  # what the environment gives is judged where it is known
            yield re.sub(rf"^{options.key()}(?=:)|(?<![\w.]){options.key()}(?=\.\w)", path, str(error))


def _reference(value: Any) -> bool:
    """Values that become something else before the call: another object, or a pipeline step's output."""
    if isinstance(value, Mapping):
        return "_target_" in value
    return isinstance(value, str) and value.startswith(("@", "${oc.env:"))


def _check_recomputed(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """What can be known of it before the model is there; ``training/build.py`` looks at the model."""
    budget, stage, backbone = values["trainer"]["activation_memory_budget"], values["stage"], values["backbone"]
    if budget >= 1 or not isinstance(stage, Mapping) or not isinstance(backbone, Mapping):
        return
    shares = {
        "backbone.dropout": backbone.get("dropout") if values["init_from"] is None else 0,
        "stage.lora_dropout": stage.get("lora_dropout") if stage.get("lora_rank") else 0,
    }
    for key, share in shares.items():
        if share:
            yield (
                f"{prefix}{key}={share}: what it leaves out would be drawn anew with "
                f"{prefix}trainer.activation_memory_budget={budget}; give {prefix}{key}=0, "
                f"or {prefix}trainer.gradient_checkpointing=true in its place"
            )


def _check_quantization(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    stage, backbone = values["stage"], values["backbone"]
    kind = stage.get("lora_quantization") if isinstance(stage, Mapping) and stage.get("lora_rank") != 0 else None
    if kind and isinstance(backbone, Mapping) and backbone.get("_target_") == TransformersOptions.TARGET:
        yield f"{prefix}stage.lora_quantization={kind}: is not for {prefix}backbone=transformers; leave one out"
    elif kind and find_spec("bitsandbytes") is None:
        yield f"{prefix}stage.lora_quantization={kind}: bitsandbytes is missing; pip install 'lit-llm[qlora]'"


def _check_trainer(path: str, values: Mapping[str, Any]) -> Iterator[str]:
    choices = {"precision": schema.PRECISIONS, "accelerator": schema.ACCELERATORS, "save_dtype": schema.SAVE_DTYPES,
               "launcher": LAUNCHERS}  # fmt: skip
    for key, known in choices.items():
        if values[key] not in known:
            yield f"{path}{key}={values[key]}: must be one of {', '.join(str(one or 'null') for one in known)}"
    for key in ("val_check_interval", "limit_train_batches", "limit_val_batches", "overfit_batches"):
        if values[key] is not None and values[key] > 1 and values[key] % 1:
            yield f"{path}{key}={values[key]}: must be a whole number, or a share from 0.0 to 1.0"
    if values["max_time"] and not TIME.fullmatch(values["max_time"]):
        yield f"{path}max_time={values['max_time']}: must be DD:HH:MM:SS, days to seconds, such as 00:01:30:00"
    elif values["max_time"] and not re.search("[1-9]", values["max_time"]):
        yield f"{path}max_time={values['max_time']}: no time at all; give at least 00:00:00:01, or null"
    budget = values["activation_memory_budget"]
    if budget < 1 and values["gradient_checkpointing"]:
        yield f"{path}activation_memory_budget={budget}: computes again what {path}gradient_checkpointing does; choose"
    elif budget < 1 and not values["compile"]:
        yield (
            f"{path}activation_memory_budget={budget}: is the compiler's; give {path}compile=true, or "
            f"{path}gradient_checkpointing=true in its place"
        )
    if values["max_time"] and not any(values[k] for k in ("max_steps", "max_epochs", "max_tokens", "fast_dev_run")):
        yield (
            f"{path}max_time={values['max_time']}: the schedule needs a length too; give max_steps, max_epochs or "
            "max_tokens beside it"
        )
