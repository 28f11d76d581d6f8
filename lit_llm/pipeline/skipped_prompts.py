"""The held-out prompts of a step that was left out: what the other stages answer to them is measured all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_llm.config import schema
from lit_llm.config.environment import hiding
from lit_llm.config.pipeline_steps import Step, begins_from, filled, references, without_links
from lit_llm.config.targets import construct, named_class
from lit_llm.errors import UserError
from lit_llm.evaluation.sets import write_heldout
from lit_llm.records import PromptBatch
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger("lit_llm")

FOLDER = "skipped"  # in the pipeline's


@dataclass(frozen=True)
class SkippedStep:
    """A step that is no run, the folder with its ``heldout`` sets and ``config.yaml``, and what it would start from."""

    name: str
    folder: Path
    parent: str | None


def keep_prompts(
    stages: Mapping[str, Mapping[str, Any]],
    folder: Path,
    outputs: Mapping[str, Path],
    tokenizer_of: Callable[[str], Tokenizer],
) -> SkippedStep | None:
    """The first step that was not made and would sample answers, its held-out prompts written into ``folder``.

    Scorers and rewards of steps that were not made are done without. None where there is no such step, or it cannot
    be filled in; with a line that says why where its data cannot be read.

    Args:
        stages: of the pipeline's configuration.
        outputs: what each step made.
        tokenizer_of: gives that of a step's model.
    """
    for name, config in stages.items():
        if name in outputs or not _samples(config):
            continue
        step = judged(Step(name, dict(config)), outputs)
        if step.config.get("init_from") is None or not set(references(step.config)) <= set(outputs):
            continue
        place, parent = folder / FOLDER / name, begins_from(step)
        try:
            tokenizer = None if parent is None else tokenizer_of(parent)
            _write(filled(step.config, lambda of: outputs[of]), tokenizer, place)
        except UserError as error:  # the chain is done: its report is not lost to data that it did not need
            log.warning("no held-out prompts of %s, which was left out: %s", name, error)
            continue
        return SkippedStep(name, place, parent)
    return None


def _samples(config: Mapping[str, Any]) -> bool:
    made = named_class(config["data"], "data", config.get("allowed_targets") or ())
    return getattr(made, "batch_type", None) is PromptBatch


def judged(step: Step, outputs: Mapping[str, Path]) -> Step:
    """The step less the scorers, reward and gold reward that need a step which was not made."""
    gone = set(references(step.config)) - set(outputs)
    stage = dict(step.config["stage"])
    for key in ("reward", "gold"):
        if gone & set(references(stage.get(key) or {})):
            stage[key] = None
    return without_links(Step(step.name, {**step.config, "stage": stage}), gone)


def _write(config: Mapping[str, Any], tokenizer: Tokenizer | None, place: Path) -> None:
    cfg = schema.restored(config)
    tokenizer = load_tokenizer(cfg.init_from) if tokenizer is None else tokenizer
    data = construct(cfg.data, "data", cfg.allowed_targets)(tokenizer=tokenizer)
    shown = hiding(cfg)
    for heldout in data.heldout():
        items = tuple(replace(item, source=shown(item.source)) for item in heldout.items)
        write_heldout(place / "heldout", heldout._replace(items=items))
    schema.save(cfg, place / "config.yaml")
