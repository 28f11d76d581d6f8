"""What ends a pipeline: the ledger over all stages, the same questions answered by each, the page, what to do next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.backbone.families import Head
from lit_llm.backbone.huggingface import head_in, load_config
from lit_llm.backbone.loaded import LoadedModel, load_shared
from lit_llm.config import schema
from lit_llm.errors import UserError
from lit_llm.evaluation.evaluator import Evaluator
from lit_llm.evaluation.heldout import can_evaluate
from lit_llm.evaluation.ledger import Ledger, evaluate_chain
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import read_all
from lit_llm.evaluation.task_changes import task_changes
from lit_llm.generation.sampling import respond
from lit_llm.pipeline import skipped_prompts
from lit_llm.pipeline.best_of_n_control import write_best_of_n
from lit_llm.pipeline.human_feedback import comparison
from lit_llm.pipeline.model_export import export_model
from lit_llm.records import Heldout, Message
from lit_llm.report.page import write_report
from lit_llm.runtime.allocator import give_back_freed_memory
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.progress_bars import Bar
from lit_llm.runtime.terminal import near, typed
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer
from lit_llm.training.build import computed_by
from lit_llm.training.evaluate import AFTER, BEFORE, device_of, evaluator_of

log = logging.getLogger("lit_llm")

Parents = Mapping[str, str | None]
Conversation = tuple[Message, ...]

ROOM = 2 * 2**30
"""Bytes of weights that stages' models may take together in memory; beyond them the one asked for longest ago is let
go, and read again where it is asked for again."""
STARTING_MODEL = "starting_model"  # in ledger and answers: what the chain began from, where it was trained elsewhere


def evaluate_pipeline(
    config: Mapping[str, Any],
    folder: Path,
    runs: Mapping[str, Path],
    parents: Parents,
    outputs: Mapping[str, Path],
) -> str | None:
    """Write ledger, best_of_n, answers (.json) and report.html into the pipeline's folder, export the last model where
    that is asked for, and say where all is. Returns the run whose model the chain ends with; None where no run has made
    a model that writes text.

    ``outputs``: the folder of what each step made, also of one that a model of the user's own replaces.
    """
    beginnings, origins = outside(runs, parents, outputs)
    models = Models(runs, {**outputs, **beginnings})
    if not any(models.prompts()):
        keep_skipped_prompts(config, folder, models, parents)
    if config["ledger"]:
        write_ledger(folder, models, origins)
    write_best_of_n(config, folder, models)
    talking = models.talking()
    before = [name for name in beginnings if models.head(name) == "language"]
    models.keep_only([*before, *talking])
    write_answers(folder, models, config["answers"], [*before, *talking])
    models.keep_only([])
    give_back_freed_memory()
    final = "ppo" if "ppo" in talking else talking[-1] if talking else None
    if final is not None:
        export_model(config, folder, final, runs[final])
    elif config["export"]["to"] is not None:
        log.warning("export: nothing is written, no step made a model that writes text")
    page = write_report(folder) if config["report"] else None
    log.info("\nreport: %s", "not written (report=false)" if page is None else near(page))
    log.info("curves: tensorboard --logdir %s", typed(folder))
    log.info("every byte: python scripts/verify.py model=%s", typed(folder / (final or list(runs)[-1]) / "model"))
    for line in compared(folder, models, parents):
        log.info("%s", line)
    return final


def outside(
    runs: Mapping[str, Path], parents: Parents, outputs: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, str | None]]:
    """Folders of the models that the runs start from and no run made, by name; and ``parents`` with those, first.

    A model of the user's own in place of a step has the step's name, another is called ``STARTING_MODEL``.
    """
    others = [parent for parent in parents.values() if parent is not None and parent not in runs]
    beginnings = {name: outputs[name] for name in others if name in outputs}
    found = dict(parents)
    for name in (name for name, parent in parents.items() if parent is None):
        init_from = schema.load(runs[name] / "config.yaml").init_from
        if init_from is None or not (folder := Path(init_from)).is_dir():
            continue
        new = STARTING_MODEL if STARTING_MODEL not in beginnings else f"{STARTING_MODEL}_of_{name}"
        found[name] = next((other for other, place in beginnings.items() if place == folder), new)
        beginnings.setdefault(found[name] or new, folder)
    return beginnings, {**dict.fromkeys(beginnings), **found}


def keep_skipped_prompts(config: Mapping[str, Any], folder: Path, models: Models, parents: Parents) -> None:
    """Held-out prompts of a step that was left out: the other stages answer them all the same."""
    found = skipped_prompts.keep_prompts(config["stages"], folder, models.outputs, lambda name: models.context(name)[1])
    if found is None:
        return
    beside = [name for name in models.runs if parents[name] == found.parent]
    near = [*beside, *(name for name in models.runs if name == found.parent)]
    if found.parent is not None and near:  # under the first beside it: the parent and all that comes later answer
        models.add(found.name, found.folder, near[0])


def compared(folder: Path, models: Models, parents: Parents) -> list[str]:
    """How people compare what was made last, and is measured on held-out prompts, with what it started from."""
    if not models.prompts():
        return []
    owner, heldout = models.prompts()[-1]
    aligned = [name for name in models.runs if "prompts" in models.evaluator(name).beside]
    after = owner if owner in models.runs else aligned[-1] if aligned else None
    parent = parents[after] if after is not None else None
    if after is None or parent is None:
        return []
    before = folder / parent / "model" if parent in models.runs else models.outputs.get(parent)
    return comparison(folder, after, before, models.places[owner] / "heldout" / f"{heldout.name}.jsonl")


class Models:
    """The models of a pipeline's stages with their held-out sets, each read when first asked for.

    ``sets[stage]`` are its sets by the name that the ledger knows them by: ``name_stage`` where an earlier stage has
    other items under that name. ``outputs``: what each step made, steps that are no runs of this pipeline included.
    """

    def __init__(self, runs: Mapping[str, Path], outputs: Mapping[str, Path] | None = None) -> None:
        self.runs, self.places = runs, dict(runs)
        self.outputs = outputs if outputs is not None else {name: run / "model" for name, run in runs.items()}
        self.near = {name: name for name in runs}  # the run that a place's sets count to
        self.sets: dict[str, dict[str, Heldout]] = {}
        for name in runs:
            self._read(name)
        self._loaded: dict[str, LoadedModel] = {}  # the one asked for last is the last
        self._evaluators: dict[str, Evaluator] = {}

    def add(self, name: str, place: Path, near: str) -> None:
        """Sets of a step that was left out, in a folder laid out as a run's; they count to the run ``near``."""
        self.places[name], self.near[name] = place, near
        self._read(name)

    def _read(self, stage: str) -> None:
        heldout = self.places[stage] / "heldout"
        known = {name: one for sets in self.sets.values() for name, one in sets.items()}
        self.sets[stage] = {}
        for one in read_all(heldout) if heldout.is_dir() else []:
            other = one.name in known and known[one.name] != one
            self.sets[stage][f"{one.name}_{stage}" if other else one.name] = one

    def prompts(self) -> list[tuple[str, Heldout]]:
        """The sets to be answered by sampling, and whose they are."""
        every = [(stage, one) for stage, sets in self.sets.items() for one in sets.values()]
        return [(stage, one) for stage, one in every if one.kind == "prompts"]

    def loaded(self, stage: str) -> LoadedModel:
        if stage not in self._loaded:
            self._make_room()
            self._loaded[stage] = load_shared(self.outputs[stage], **self._computed_by(stage))
            self._loaded[stage].model.to(device_of(self._config(stage)))
        self._loaded[stage] = self._loaded.pop(stage)
        return self._loaded[stage]

    def _make_room(self) -> None:
        """For one more, as large as the largest that is held; the one asked for last stays, to be compared with."""
        sizes = {name: sum(w.nbytes for w in one.model.parameters()) for name, one in self._loaded.items()}
        while len(self._loaded) > 1 and sum(sizes[name] for name in self._loaded) + max(sizes.values()) > ROOM:
            del self._loaded[next(iter(self._loaded))]

    def _config(self, stage: str) -> DictConfig:
        """Of the run; a model of the user's own has none, and counts as the first run's."""
        return schema.load(self.runs.get(stage, next(iter(self.runs.values()))) / "config.yaml")

    def _computed_by(self, stage: str) -> dict[str, Any]:
        """A folder that a run made says it itself; one of the user's own is computed as the run that starts from it."""
        return {} if stage in self.runs else computed_by(self._config(stage))

    def head(self, stage: str) -> Head:
        return head_in(self.outputs[stage], **self._computed_by(stage))

    def context(self, stage: str) -> tuple[int, Tokenizer]:
        """How many tokens the stage's model takes, and its tokenizer; no weights are read for it."""
        if stage in self._loaded:
            return self._loaded[stage].model.config.max_positions, self._loaded[stage].tokenizer
        shape = load_config(self.outputs[stage], **self._computed_by(stage))
        return shape.max_positions, load_tokenizer(self.outputs[stage])

    def talking(self) -> list[str]:
        """The runs that made a language model."""
        return [name for name in self.runs if self.head(name) == "language"]

    def evaluator(self, stage: str) -> Evaluator:
        """The evaluation as the stage's own configuration says."""
        if stage not in self._evaluators:
            place = self.places[stage]
            self._evaluators[stage] = evaluator_of(schema.load(place / "config.yaml"), place)
        return self._evaluators[stage]

    def keep_only(self, stages: Sequence[str]) -> None:
        """Lets go of all other models, and of the scorers."""
        self._loaded = {name: one for name, one in self._loaded.items() if name in stages}
        for evaluator in self._evaluators.values():
            evaluator.let_go()

    def owner(self, name: str) -> str:
        """The first stage that has this set."""
        return next(stage for stage, sets in self.sets.items() if name in sets)


def write_ledger(folder: Path, models: Models, parents: Parents) -> Path:
    """Every stage on every earlier stage's sets, and the tasks that it was asked. Scores that a run took itself are
    read."""
    known = {stage: parent if parent in models.outputs else None for stage, parent in parents.items()}
    bar = Bar(desc="ledger", unit="evaluator", dynamic_ncols=True, leave=False)

    def evaluate(stage: str, name: str) -> Scores | None:
        bar.update()
        bar.set_postfix_str(f"{stage} on {name}")
        return scores_of(models, known, stage, name)

    names: dict[str, list[str]] = {}
    for owner, sets in models.sets.items():
        names.setdefault(models.near[owner], []).extend(sets)
    with bar:
        ledger = evaluate_chain(known, names, evaluate)
        add_repeats(ledger, models)
    ledger.tasks = task_changes(
        {stage: (parent, models.runs[stage]) for stage, parent in known.items() if stage in models.runs}
    )
    return ledger.write(folder)


def scores_of(models: Models, parents: Parents, stage: str, name: str) -> Scores | None:
    """The scores of a stage's model on a set, from where they lie or taken now; None where it cannot take the set."""
    owner = models.owner(name)
    heldout, candidate = models.sets[owner][name], models.loaded(stage)
    if not can_evaluate(candidate.model, heldout):
        return None
    lying = [models.places[stage] / AFTER / f"{heldout.name}.json"] if stage == owner else []
    lying += [models.places[owner] / BEFORE / f"{heldout.name}.json"] if parents.get(owner) == stage else []
    for file in lying:
        if file.is_file():
            return replace(Scores.load(file), name=name)
    parent = parents[stage]
    beside = parent is not None and heldout.kind in models.evaluator(stage).beside
    reference = models.loaded(parent) if parent is not None and beside else None
    asked = heldout._replace(name=name)
    return models.evaluator(owner).evaluate(candidate, asked, f"{stage} on {name}", reference=reference)


def add_repeats(ledger: Ledger, models: Models) -> None:
    """Sampled answers a second time with another seed, by one model: what differs then is the floor of noise."""
    for owner, sets in models.sets.items():
        for name, heldout in sets.items():
            took = [stage for stage in (models.near[owner], *ledger.scores) if name in ledger.scores[stage]]
            if heldout.kind != "prompts" or not took or name in ledger.repeats.get(took[0], {}):
                continue
            stage, known = took[0], ledger.repeats.setdefault(took[0], {})
            evaluator, asked = models.evaluator(owner), heldout._replace(name=name)
            seed = evaluator.settings.seed + 1
            known[name] = evaluator.evaluate(models.loaded(stage), asked, f"{name} again", seed)


def write_answers(folder: Path, models: Models, settings: Mapping[str, Any], talking: Sequence[str]) -> None:
    """answers.json: the same prompts, which of them are of held-out sets, and the answers of the models ``talking``."""
    asked: list[Conversation] = [(Message("user", text),) for text in settings["prompts"]]
    prompts = list(asked)
    for _, heldout in models.prompts():
        prompts += [item.messages for item in heldout.items[: settings["heldout_prompts"]]]
    prompts = answerable(models, talking, prompts)
    answers = {}
    for stage in talking if prompts else []:
        log.info("answers of %s", stage)
        try:
            answers[stage] = respond(
                models.loaded(stage).model,  # type: ignore[arg-type]
                models.loaded(stage).tokenizer,
                prompts,
                max_new_tokens=settings["max_new_tokens"],
                temperature=settings["temperature"],
                seed=settings["seed"],
            )
        except UserError as error:  # the chain is done: its report is not lost to one model's answers
            log.warning("no answers of %s: %s", stage, error)
    shown = [[{"role": message.role, "content": message.content} for message in prompt] for prompt in prompts]
    of_heldout = [prompt not in asked for prompt in prompts]
    write_json(folder / "answers.json", {"prompts": shown, "heldout": of_heldout, "answers": answers})


def answerable(models: Models, stages: Sequence[str], prompts: Sequence[Conversation]) -> list[Conversation]:
    """The prompts that leave room for an answer in every stage's context."""
    kept = list(prompts)
    for stage in stages:
        context, tokenizer = models.context(stage)
        kept = [one for one in kept if len(tokenizer.encode_prompt(one)) < context]
    if left := len(prompts) - len(kept):
        log.warning("answers: %d of %d prompts fill a model's context and are left out", left, len(prompts))
    return kept
