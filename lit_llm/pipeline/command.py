"""The chain of stages: each runs when what goes into it is new, and is taken from the cache when it is not.

``@name`` in a stage's configuration stands for what the step of that name made, and so gives the order of the chain.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config import schema, yaml_files
from lit_llm.config.command_line import command
from lit_llm.config.export_keys import FOLDER as EXPORT
from lit_llm.config.interruption import clear, make
from lit_llm.config.pipeline_steps import Step, begins_from, descendants, without_links
from lit_llm.config.pretrained_defaults import tell
from lit_llm.errors import NothingToLearn, UserError
from lit_llm.model_sources.gguf_header import gguf_package
from lit_llm.pipeline.cache import show
from lit_llm.pipeline.graph import COLLECTED, RANKINGS, Chain, filled, inputs_of, outputs, plan
from lit_llm.pipeline.human_feedback import ASK, asked, found_win_rate, of_this_chain
from lit_llm.pipeline.simulated_gold import without_rule
from lit_llm.runtime.allocator import give_back_freed_memory
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.runtime.terminal import near, typed
from lit_llm.training.plugins import register
from lit_llm.training.result import duration, in_one_sentence
from lit_llm.training.search.trial import Pruned, untold

log = logging.getLogger("lit_llm")


def main() -> None:
    """The command line (lit-llm-pipeline)."""
    register()
    command("pipeline", job)


def job(cfg: DictConfig) -> float | None:
    """What Hydra calls: the pipeline in Hydra's folder. Returns what a sweep compares: the last stage's objective."""
    from lit_llm.training.sweep import survive

    return survive(run_pipeline, cfg)


def run_pipeline(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run or reuse every step, then write ledger and report. Returns the metrics of the stage that sweeps compare."""
    cfg = without_rule(cfg)
    chain = plan(cfg, folder)
    folder.mkdir(parents=True, exist_ok=True)
    exported = cfg.export.to is not None
    refuse_the_user_s(folder, [*chain.steps, *([EXPORT] if exported else [])])
    if exported:
        gguf_package()  # what it cannot do without is said before hours of training
    schema.save(cfg, folder / "config.yaml")
    tell(cfg)
    started = time.monotonic()
    for number, name in enumerate(chain.steps, 1):
        run_step(chain, name, number)
    finish(chain, started)
    if cfg.objective in chain.skipped or not chain.metrics:  # another stage's number would be compared with it
        return {"objective": None, "objective_of": cfg.objective, "seconds": time.monotonic() - started}
    compared = cfg.objective if cfg.objective in chain.metrics else list(chain.metrics)[-1]
    return chain.metrics[compared] | {"seconds": time.monotonic() - started}


def refuse_the_user_s(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError where a pipeline would write over what no pipeline made: its steps are links in its folder."""
    elsewhere = "hydra.run.dir=FOLDER starts another"
    for name in names:
        if (folder / name).exists() and not (folder / name).is_symlink():
            raise UserError(f"{folder / name}: is no pipeline's, and a step's link takes its place; {elsewhere}")
    config = folder / "config.yaml"
    if config.is_file() and "stages" not in yaml_files.load(config):
        raise UserError(f"{config}: is no pipeline's and would be written over; {elsewhere}")


# One step


def run_step(chain: Chain, name: str, number: int) -> None:
    """Reuse the step from the cache, or run it; then show it in the pipeline's folder."""
    heading = f"[{number}/{len(chain.steps)}] {name}"
    if (chain.replaced is not None and _stands_in(chain, name)) or _lacks(chain, name, heading):
        return
    if chain.steps[name].config.get("path") == ASK and name == RANKINGS:
        _ask(chain, heading)
    config = filled(chain, chain.steps[name])
    inputs = inputs_of(chain, chain.steps[name])
    place = chain.cache.folder(name, schema.digest(inputs), anew=name in chain.again)
    started = time.monotonic()
    if chain.cache.finished(place):
        chain.cache.check(place)
        log.info("%s: unchanged, reused from %s", heading, place)
        chain.reused.append(name)
    elif name in chain.before and not _follows_replaced(chain, name):
        rest = ", or give init_from=FOLDER" if chain.replaced is None else ""
        raise UserError(
            f"start_from={chain.cfg.start_from}: {name} comes before it and is not in the cache as configured; run the "
            f"pipeline without start_from= first{rest}"
        )
    elif not _compute(chain, name, config, inputs, place, heading):
        return
    chain.folders[name] = place
    chain.seconds[name] = time.monotonic() - started
    metrics = read_metrics(place)
    if metrics:
        chain.metrics[name] = metrics
    show(chain.folder / name, place)


def _compute(
    chain: Chain, name: str, config: dict[str, Any], inputs: dict[str, Any], place: Path, heading: str
) -> bool:
    """Whether the step was made; a chain goes on without one that its own data or validation forbids."""
    from lit_llm.training.command import execute

    log.info("\n%s%s", heading, _why(chain, name, inputs, place))
    started = time.monotonic()
    make(place)
    try:
        if name == RANKINGS:
            _collect(config, place, list(chain.cfg.allowed_targets))
        else:
            with untold(unless=name == (chain.cfg.objective or list(chain.steps)[-1])):
                execute(schema.restored({**config, "resume": "auto"}), place)
    except Pruned:
        log.info("%s: pruned, the chain stops here; %s goes on where it is asked for again", heading, place)
        raise
    except UserError as error:
        clear(place)
        if not _forbidden(error):
            raise UserError(f"{name}: {error}") from error
        _leave_out(chain, name, str(error), heading)
        return False
    except Exception:
        gone = clear(place)
        log.error("%s: failed, the chain stops here%s", heading, "" if gone else f" (its folder: {place})")
        raise
    give_back_freed_memory()  # the next stage needs it
    chain.cache.finish(place, inputs)
    log.info("%s: done in %s", heading, duration(time.monotonic() - started))
    return True


def _why(chain: Chain, name: str, inputs: dict[str, Any], place: Path) -> str:
    """Why a step is computed although the cache holds one of its name."""
    if (place / "run.json").is_file():
        return f": was interrupted, goes on in {place}"
    known = chain.cache.newest(name)
    changed = chain.cache.changed(known, inputs) if known is not None else []
    if not changed:
        return ""
    return f": computed anew, since these changed: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"


def _forbidden(error: UserError) -> bool:
    """Whether an error says that a step cannot be made of what there is, which is a result and not a mistake."""
    from lit_llm.rewards.validation.gate import RewardValidationFailed

    return isinstance(error, RewardValidationFailed | NothingToLearn)


def _leave_out(chain: Chain, name: str, reason: str, heading: str) -> None:
    chain.skipped[name] = reason
    log.warning("%s: left out: %s", heading, reason)


def _lacks(chain: Chain, name: str, heading: str) -> bool:
    """Whether a step cannot be made since one that it needs was left out; scorers made by that one are done without."""
    gone = set(chain.skipped)
    chain.steps[name] = without_links(chain.steps[name], gone)
    needed = [parent for parent in chain.steps[name].parents if parent in gone]
    if needed:
        _leave_out(chain, name, f"it needs {' and '.join(needed)}, which was left out", heading)
    return bool(needed)


def _ask(chain: Chain, heading: str) -> None:
    """rankings=ask: from here on the step reads what people have ranked in the project that was made for them."""
    values, step = schema.plain(chain.cfg), chain.steps[RANKINGS]
    sampled = filled(chain, Step(RANKINGS, values["annotation"]))
    parents = [chain.cache.output_hash(chain.folders[name]) for name in step.parents]
    log.info("%s: people are asked", heading)
    chain.steps[RANKINGS] = Step(RANKINGS, asked(values, sampled, step.config, schema.digest(parents)), step.parents)


def _collect(config: dict[str, Any], place: Path, allowed: list[str]) -> None:
    """The rankings step: asks (simulated) annotators about answers of the model, and writes what they said."""
    from lit_llm.pipeline.rankings import collect

    collect(config, place, place / COLLECTED, allowed)


# start_from=NAME


def _stands_in(chain: Chain, name: str) -> bool:
    """Whether a step is not run with init_from=FOLDER: FOLDER stands in for it, or nothing that runs asks for it."""
    if name == chain.replaced:
        chain.folders[name] = Path(chain.cfg.init_from).expanduser()
        log.info("%s: replaced by %s", name, chain.folders[name])
        return True
    return name not in chain.again | chain.before


def _follows_replaced(chain: Chain, name: str) -> bool:
    """Whether a step before the start is made from init_from=FOLDER (a reward model for PPO): it has to be computed."""
    return chain.replaced is not None and name in descendants(chain.steps, chain.replaced)


# The end


def finish(chain: Chain, started: float) -> None:
    """Ledger, answers, report, and what to do next. ``started``: on the monotonic clock."""
    from lit_llm.pipeline.final_evaluation import evaluate_pipeline

    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every event file that ends
    summary = {
        "seconds": time.monotonic() - started,  # of the steps; the report is made of this file
        "stages": {
            name: {"seconds": chain.seconds.get(name), "reused": name in chain.reused} for name in chain.folders
        },
        "skipped": chain.skipped,
    }
    write_json(chain.folder / "pipeline.json", summary)
    runs = {name: chain.folders[name] for name in chain.steps if name in chain.metrics and name != RANKINGS}
    parents = {name: begins_from(chain.steps[name]) for name in runs}
    values = schema.plain(chain.cfg)
    if values["win_rate"] is not None:
        write_json(chain.folder / "win_rate.json", of_this_chain(found_win_rate(values["win_rate"]), outputs(chain)))
    final = evaluate_pipeline(values, chain.folder, runs, parents, outputs(chain)) if runs else None
    steps = counted(len(chain.folders), "step") + (f", {len(chain.reused)} of them reused" if chain.reused else "")
    log.info("\nThe pipeline took %s for %s.", duration(time.monotonic() - started), steps)
    if runs:
        log.info("%s", in_one_sentence(chain.metrics[final or list(runs)[-1]]))
    log.info("folder: %s", near(chain.folder))
    if final is not None:
        log.info("next: python scripts/chat.py model=%s", typed(chain.folder / final / "model"))


def read_metrics(place: Path) -> dict[str, Any]:
    import json

    path = place / "metrics.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
