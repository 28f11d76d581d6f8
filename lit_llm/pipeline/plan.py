"""``scripts/plan.py``: what a run, or every step of a chain, will take; nothing is trained to be kept.

It takes the words of ``scripts/train.py``, or ``pipeline`` and those of ``scripts/pipeline.py``. Of a chain, a step
that starts from another model is planned with what the few measured steps of that one made, and rankings of a few
prompts stand for all of them. Answers of such a model seldom end, so the steps that sample take longer in the plan than
they will.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from omegaconf import DictConfig

from lit_llm.config import schema
from lit_llm.config.command_line import check, compose, small_command
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.pipeline_steps import Step
from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.pipeline.graph import COLLECTED, RANKINGS, Chain, filled, plan
from lit_llm.runtime.process_age import seconds_since_start
from lit_llm.runtime.stopping import ended_at_once
from lit_llm.runtime.terminal import started
from lit_llm.training.plan.run_plan import Plan, clock, plan_run, size_of

HELP = """Says what a run will take before it starts: memory by part, tokens, arithmetic and time.

  plan.py WORDS            the words of scripts/train.py: plan.py stage=pretraining backbone=30m data.path=FOLDER
  plan.py pipeline WORDS   the words of scripts/pipeline.py: every stage of the chain
  measure=false            leaves out the steps that are timed: nothing is loaded then

Nothing is kept: no run folder, no model. The data's tokens are in the cache afterwards."""
NO_PLAN = {
    "look": "shows what a run will train on, as scripts/prepare.py does; leave it out of a plan",
    "hparams_search": "describes many runs, and a plan is of one: give it that one's words",
    "hydra.mode": "a plan is of one run or one chain; leave it out",
}
"""Words of train.py that ask for something else than one run."""
FEW = {"train": 24, "validation": 8, "test": 8}  # prompts whose answers are ranked in the plan


def main() -> None:
    """The command line (lit-llm-plan)."""
    small_command(HELP, run)


def run(words: Sequence[str]) -> None:
    """Prints the plan of the run, or of every stage of the pipeline, that the words describe."""
    said = [word for word in words if word.startswith("measure=")]
    if any(word not in ("measure=true", "measure=false") for word in said):
        raise UserError(f"{said[-1]}: must be measure=true or measure=false")
    rest = [word for word in words if word not in said]
    if options := [word for word in rest if word.startswith("-")]:
        raise UserError(f"{options[0]}: a plan is of one run or one chain, and takes no options of Hydra's")
    for word, told in ((word, NO_PLAN[key]) for word in rest for key in NO_PLAN if word.startswith(f"{key}=")):
        raise UserError(f"{word}: {told}")
    name = "pipeline" if rest[:1] == ["pipeline"] else "train"
    rest = rest[1:] if name == "pipeline" else rest
    schema.register()
    check(name, hydra_words(name, rest))
    cfg, measure = compose(name, rest), said[-1:] != ["measure=false"]
    started(f"plan: of scripts/{name}.py; loading torch ...")
    logging.disable(logging.INFO)  # the story of runs that are thrown away
    with tempfile.TemporaryDirectory(prefix="plan-") as folder, ended_at_once(lambda: rmtree(folder, True)):
        if name == "pipeline":
            logging.disable(logging.WARNING)  # they speak of models of a few steps
            plan_chain(cfg, measure, Path(folder), tell)
        else:
            plan_run(cfg, measure, Path(folder), tell)


def tell(line: str) -> None:
    """At once, also where the output is a file or a pipe."""
    print(line, flush=True)


# A chain


@dataclass(frozen=True)
class Row:
    """One step of the plan."""

    name: str
    seconds: float | None
    memory: float | None


def plan_chain(cfg: DictConfig, measure: bool, folder: Path, tell: Callable[[str], object]) -> None:
    """Tells the plan of every step, each line as soon as it is known, then a table and the sum. Without ``measure``
    only of the steps whose data is there."""
    rows: list[Row] = []
    launch = seconds_since_start()  # one process takes all steps

    def within(line: str) -> None:
        tell(f"  {line}")

    chain = plan(cfg, folder / "pipeline")
    for name in chain.steps:
        tell(f"[{len(rows) + 1}/{len(chain.steps)}] {name}")
        row = _rankings(chain, folder, within) if name == RANKINGS else _stage(chain, name, folder, measure, within)
        rows.append(row)
        if row.seconds is None and measure:
            break
    for line in _table(rows, launch, measure):
        tell(line)


def _table(rows: Sequence[Row], launch: float, measure: bool) -> Iterator[str]:
    yield ""
    yield f"{'step':<24}{'time':>10}{'memory':>12}"
    for row in rows:
        yield f"{row.name:<24}{clock(row.seconds):>10}{size_of(row.memory) if row.memory else '':>12}"
    if measure and all(row.seconds is not None for row in rows):
        total = launch + sum(row.seconds or 0.0 for row in rows)
        most = max(row.memory or 0.0 for row in rows)
        yield f"{'launch':<24}{clock(launch):>10}"
        yield f"{'in all':<24}{clock(total):>10}{size_of(most):>12}"
        yield "Then the report is made: each model answers once more, and the best of several answers is taken."


def _stage(chain: Chain, name: str, folder: Path, measure: bool, tell: Callable[[str], object]) -> Row:
    config = _planned(chain.steps[name].config)
    missing = [parent for parent in chain.steps[name].parents if parent not in chain.folders]
    if missing:
        tell(f"needs what {', '.join(missing)} makes: leave measure=false out")
        return Row(name, None, None)
    place = folder / name
    chain.folders[name] = place
    values = filled(chain, Step(name, config))
    try:
        found: Plan = plan_run(schema.restored(values), measure, place, tell)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not (place / "model").is_dir():
        del chain.folders[name]
    took = found.time
    seconds = None if took is None else replace(took, steps=round(took.steps * _share(chain, name)), launch=0.0).total
    return Row(name, seconds, found.memory)


def _planned(config: Mapping[str, Any]) -> dict[str, Any]:
    """What lets a model of a few steps through."""
    stage = dict(config["stage"])
    if "ignore_reward_validation" in stage:
        stage["ignore_reward_validation"] = True
    return {**config, "stage": stage}


def _share(chain: Chain, name: str) -> float:
    """How many times the steps of the plan a stage takes on all rankings, where epochs of them limit it."""
    if RANKINGS not in chain.steps[name].parents or chain.steps[name].config["trainer"]["max_steps"] is not None:
        return 1.0
    wanted = chain.steps[RANKINGS].config.get("max_prompts")
    train = wanted.get("train") if isinstance(wanted, Mapping) else wanted
    return max(1.0, train / FEW["train"]) if isinstance(train, int) else 1.0


def _rankings(chain: Chain, folder: Path, tell: Callable[[str], object]) -> Row:
    missing = [parent for parent in chain.steps[RANKINGS].parents if parent not in chain.folders]
    if missing:
        tell(f"needs what {', '.join(missing)} makes: leave measure=false out")
        return Row(RANKINGS, None, None)
    config = filled(chain, chain.steps[RANKINGS])
    if "max_prompts" not in config:
        tell("people's: read as they are")
        return Row(RANKINGS, 0.0, None)
    place = folder / RANKINGS
    began = time.perf_counter()
    few = {**config, "max_prompts": FEW, "progress": False}
    construct(few, "annotation", list(chain.cfg.allowed_targets))(output=place / COLLECTED)
    chain.folders[RANKINGS] = place
    wanted = config["max_prompts"]
    total = sum(wanted.values()) if isinstance(wanted, Mapping) else 3 * (wanted or sum(FEW.values()))
    seconds = (time.perf_counter() - began) * total / sum(FEW.values())
    tell(f"answers to {total:,} prompts, from {sum(FEW.values())} of them")
    return Row(RANKINGS, seconds, None)
