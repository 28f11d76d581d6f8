"""What ends a pipeline: the ledger over all stages, the same questions answered by each, the page, what to do next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_llm import config as schema
from lit_llm.backbone import huggingface
from lit_llm.backbone.heads import LanguageModel
from lit_llm.control_curve import write_best_of_n
from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import examinable
from lit_llm.evaluation.ledger import Ledger, examine_chain
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import read_all
from lit_llm.examination import AFTER, BEFORE, Exam, beside_parent, device_of, trained_answers
from lit_llm.generation.sampling import respond
from lit_llm.records import Heldout, Message
from lit_llm.report.page import write_report
from lit_llm.run_folder import write_json
from lit_llm.text.tokenizer import load_tokenizer

log = logging.getLogger("lit_llm")

Parents = Mapping[str, str | None]
Conversation = tuple[Message, ...]


def close(config: Mapping[str, Any], folder: Path, runs: Mapping[str, Path], parents: Parents) -> None:
    """Write ledger, best_of_n, answers (.json) and report.html into the pipeline's folder, and say where all is."""
    models = Models(runs)
    if config["ledger"]:
        write_ledger(folder, models, parents)
    write_best_of_n(config, folder, models)
    write_answers(folder, models, config["answers"])
    page = write_report(folder) if config["report"] else None
    talking = [name for name in runs if isinstance(models.model(name), LanguageModel)]
    final = "ppo" if "ppo" in talking else talking[-1]
    log.info("\nreport: %s", page or "not written (report=false)")
    log.info("final model: %s", folder / final / "model")
    log.info("next: python scripts/chat.py model=%s", folder / final / "model")
    log.info("      python scripts/verify.py model=%s", folder / final / "model")
    log.info("      tensorboard --logdir %s", folder)


class Models:
    """The models of a pipeline's stages with their held-out sets, each read when first asked for."""

    def __init__(self, runs: Mapping[str, Path]) -> None:
        self.runs = runs
        self.sets = {name: {one.name: one for one in _sets(run)} for name, run in runs.items()}
        self._loaded: dict[str, Any] = {}
        self._exams: dict[str, Exam] = {}

    def model(self, stage: str) -> Any:
        if stage not in self._loaded:
            device = device_of(schema.load(self.runs[stage] / "config.yaml"))
            self._loaded[stage] = huggingface.load_model(self.runs[stage] / "model", head="auto", device=device).eval()
        return self._loaded[stage]

    def tokenizer(self, stage: str) -> Any:
        return load_tokenizer(self.runs[stage] / "model")

    def exam(self, stage: str) -> Exam:
        """The examination as the stage's own configuration says."""
        if stage not in self._exams:
            cfg = schema.load(self.runs[stage] / "config.yaml")
            self._exams[stage] = Exam(cfg, trained_answers(self.runs[stage]), device_of(cfg))
        return self._exams[stage]

    def owner(self, name: str) -> str:
        """The first stage that has this set."""
        return next(stage for stage, sets in self.sets.items() if name in sets)


def _sets(run: Path) -> list[Heldout]:
    return read_all(run / "heldout") if (run / "heldout").is_dir() else []


def write_ledger(folder: Path, models: Models, parents: Parents) -> Path:
    """Every stage on every earlier stage's sets. Scores that a run took itself are read."""
    known = {stage: parent if parent in models.runs else None for stage, parent in parents.items()}
    bar = tqdm(desc="ledger", unit="exam", dynamic_ncols=True, leave=False)

    def examine(stage: str, name: str) -> Scores | None:
        bar.update()
        bar.set_postfix_str(f"{stage} on {name}")
        return scores_of(models, known, stage, name)

    names = {stage: tuple(sets) for stage, sets in models.sets.items()}
    with bar:
        ledger = examine_chain(known, names, examine)
        add_repeats(ledger, models)
    return ledger.write(folder)


def scores_of(models: Models, parents: Parents, stage: str, name: str) -> Scores | None:
    """The scores of a stage's model on a set, from where they lie or taken now; None where it cannot take the set."""
    owner = models.owner(name)
    heldout, model = models.sets[owner][name], models.model(stage)
    if not examinable(model, heldout):
        return None
    lying = [models.runs[stage] / AFTER / f"{name}.json"] if stage == owner else []
    lying += [models.runs[owner] / BEFORE / f"{name}.json"] if parents[owner] == stage else []
    for file in lying:
        if file.is_file():
            return Scores.load(file)
    parent = parents[stage] if beside_parent(models.exam(stage).cfg, heldout.kind) else None
    reference = models.model(parent) if parent is not None else None
    return models.exam(owner).take(model, models.tokenizer(stage), heldout, f"{stage} on {name}", reference=reference)


def add_repeats(ledger: Ledger, models: Models) -> None:
    """Sampled answers a second time with another seed, by one model: what differs then is the floor of noise."""
    for owner, sets in models.sets.items():
        for name, heldout in sets.items():
            if heldout.kind != "prompts" or name not in ledger.scores[owner] or ledger.repeats.get(owner, {}).get(name):
                continue
            exam = models.exam(owner)
            seed = exam.cfg.evaluation.seed + 1
            again = exam.take(models.model(owner), models.tokenizer(owner), heldout, f"{name} again", seed)
            ledger.repeats.setdefault(owner, {})[name] = again


def write_answers(folder: Path, models: Models, settings: Mapping[str, Any]) -> None:
    """answers.json: the same prompts, answered by every stage that talks."""
    prompts: list[Conversation] = [(Message("user", text),) for text in settings["prompts"]]
    for sets in models.sets.values():
        for heldout in sets.values():
            if heldout.kind == "prompts":
                prompts += [item.messages for item in heldout.items[: settings["heldout_prompts"]]]
    talking = [stage for stage in models.runs if isinstance(models.model(stage), LanguageModel)]
    prompts = answerable(models, talking, prompts)
    answers = {}
    for stage in talking if prompts else []:
        log.info("answers of %s", stage)
        try:
            answers[stage] = respond(
                models.model(stage),
                models.tokenizer(stage),
                prompts,
                max_new_tokens=settings["max_new_tokens"],
                temperature=settings["temperature"],
                seed=settings["seed"],
            )
        except UserError as error:  # the chain is done: its report is not lost to one model's answers
            log.warning("no answers of %s: %s", stage, error)
    shown = [[{"role": message.role, "content": message.content} for message in prompt] for prompt in prompts]
    write_json(folder / "answers.json", {"prompts": shown, "answers": answers})


def answerable(models: Models, stages: Sequence[str], prompts: Sequence[Conversation]) -> list[Conversation]:
    """The prompts that leave room for an answer in every stage's context."""
    kept = list(prompts)
    for stage in stages:
        tokenizer, context = models.tokenizer(stage), models.model(stage).config.max_positions
        kept = [one for one in kept if len(tokenizer.chat.encode_prompt(tokenizer, one)) < context]
    if left := len(prompts) - len(kept):
        log.warning("answers: %d of %d prompts fill a model's context and are left out", left, len(prompts))
    return kept
