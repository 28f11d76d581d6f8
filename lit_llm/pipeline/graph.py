"""A chain of steps: in which order they come, what each one depends on, and where what they made lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config import schema
from lit_llm.config.pipeline_steps import Step, ancestors, begins_from, descendants, ordered, references, without
from lit_llm.config.pipeline_steps import filled as filled_in
from lit_llm.errors import UserError
from lit_llm.lineage.code_hash import code_hashes
from lit_llm.lineage.lineage import hash_folder, versions
from lit_llm.model_sources.adapters import is_model
from lit_llm.pipeline.cache import StageCache
from lit_llm.pipeline.human_feedback import rankings_step
from lit_llm.pipeline.human_feedback_checks import check
from lit_llm.runtime.model_folder import check_model_folder
from lit_llm.runtime.run_folder import RunFolder

RANKINGS = "rankings"
EARLIER = "earlier_heldout"  # the key of ``data`` that names what stages before it hold out
COLLECTED = "collected"  # the folder, in the rankings step's, that @rankings stands for


@dataclass
class Chain:
    """A pipeline while it runs."""

    cfg: DictConfig
    folder: Path
    cache: StageCache
    steps: dict[str, Step]
    again: set[str] = field(default_factory=set)  # start_from=NAME: that step and all that needs it
    before: set[str] = field(default_factory=set)  # what those need
    replaced: str | None = None  # the step that init_from=FOLDER stands in for
    folders: dict[str, Path] = field(default_factory=dict)  # of the steps that are done
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # steps that could not be made, and why


def plan(cfg: DictConfig, folder: Path) -> Chain:
    """The steps in an order in which every one comes after what it needs. Raises UserError when there is none."""
    values = schema.plain(cfg)
    steps = {name: Step(name, config) for name, config in values["stages"].items()}
    check(values)
    rankings = rankings_step(values)
    if rankings is not None:
        steps[RANKINGS] = Step(RANKINGS, rankings)
    for step in steps.values():
        step.parents = tuple(dict.fromkeys(references(step.config)))
    kept = without(steps, values["skip"])
    if not kept:
        named = ", ".join(values["skip"])
        raise UserError(f"skip=[{named}]: nothing is left to run, since each other step needs one of these; skip fewer")
    chain = Chain(cfg, folder, StageCache(values["cache_dir"]), ordered(kept))
    if cfg.start_from is not None:
        _start_at(chain, cfg.start_from)
    return chain


def _start_at(chain: Chain, start: str) -> None:
    """What start_from=NAME computes and what it needs; with init_from=FOLDER, which step FOLDER stands in for."""
    if start not in chain.steps:
        raise UserError(f"start_from={start}: is not among the steps {', '.join(chain.steps)}")
    chain.again = {start} | descendants(chain.steps, start)
    if chain.cfg.init_from is not None:
        chain.replaced = begins_from(chain.steps[start])
        if chain.replaced is None:
            raise UserError(f"init_from={chain.cfg.init_from}: {start} starts from no other step's model; leave it out")
        folder = Path(chain.cfg.init_from).expanduser()
        check_model_folder(folder, "init_from")
        if not is_model(folder):
            raise UserError(f"init_from={folder}: no model folder (it has no config.json)")
    chain.before = ancestors(chain.steps, chain.again, stop=chain.replaced)


def inputs_of(chain: Chain, step: Step) -> dict[str, Any]:
    """All that a step's result depends on. Its hash is the step's key in the cache."""
    from lit_llm.lineage.input_hash import data_hashes, without_names

    parents = {name: chain.cache.output_hash(chain.folders[name]) for name in step.parents if name in chain.folders}
    known = {
        "config": without_names(step.config),
        "environment": schema.environment(without_names(step.config)),
        "resolved": {"precision": _precision(step.config)},
        "parents": parents,
        "files": data_hashes(step.config),
        "code": code_hashes(step.config),
        "packages": versions(),
    }
    heldout = {name: schema.digest(hash_folder(place)) for name, place in held_out_before(chain, step).items()}
    return {**known, "heldout": heldout} if heldout else known


def held_out_before(chain: Chain, step: Step) -> dict[str, Path]:
    """The held-out sets of the stages before a step, none of which it must train; what its own training depends on is
    their contents and no model. Nothing for a step that is not to look for them, or has data of another kind."""
    data = step.config.get("data")
    if not isinstance(data, Mapping) or EARLIER not in data or not data.get("decontaminate_words"):
        return {}
    before = list(chain.steps)[: list(chain.steps).index(step.name)]
    places = {name: RunFolder(chain.folders[name]).heldout for name in before if name in chain.folders}
    return {name: place for name, place in places.items() if any(one.stat().st_size for one in place.glob("*.jsonl"))}


def _precision(config: Mapping[str, Any]) -> str | None:
    """The precision that a stage computes in on this machine; what auto stands for differs between machines."""
    from lit_llm.training.trainer import precision

    settings = config.get("trainer")
    return precision(settings["precision"], settings["accelerator"]) if settings else None


def filled(chain: Chain, step: Step) -> dict[str, Any]:
    """The configuration with ``@name`` replaced by the folder that the step of that name made, and with the held-out
    sets of the stages before it."""
    found: dict[str, Any] = filled_in(step.config, lambda name: output(chain, name))
    if earlier := [str(place) for place in held_out_before(chain, step).values()]:
        found["data"] = {**found["data"], EARLIER: [*found["data"][EARLIER], *earlier]}
    return found


def outputs(chain: Chain) -> dict[str, Path]:
    """What ``@name`` stands for, for every step that is done or replaced."""
    return {name: output(chain, name) for name in chain.folders}


def output(chain: Chain, name: str) -> Path:
    """What ``@name`` stands for: a stage's model folder, or the folder of collected rankings."""
    if name == "init_from":
        return Path(chain.cfg.init_from).expanduser()
    folder = chain.folders[name]
    if is_model(folder):  # a model of the user's own in place of the step
        return folder
    return folder / (COLLECTED if name == RANKINGS else "model")
