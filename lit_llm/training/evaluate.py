"""The held-out evaluation of a run: its sets kept as files, taken by the parent before and by the model after.

Every score is kept item by item, so that the pipeline's ledger need not evaluate anything twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lit_llm.backbone import huggingface
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.environment import hiding
from lit_llm.config.schema import digest
from lit_llm.config.targets import construct, named_class
from lit_llm.evaluation.evaluator import EvaluationSettings, Evaluator, set_hash
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import KINDS, write_heldout
from lit_llm.records import Heldout
from lit_llm.runtime.atomic_files import folder_beside, write_json
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.stages.base import Stage
from lit_llm.text.tokenizer import Tokenizer
from lit_llm.training.build import Parts, computed_by
from lit_llm.training.evaluation_key import settings_hash
from lit_llm.training.merge_loss import by_adapters, rounds
from lit_llm.training.trainer import in_bf16
from lit_llm.training.vocabulary_report import VocabularyReport

Metrics = dict[str, dict[str, Any]]  # {set: {measure: {"mean", "se", "n"}}}
BEFORE, AFTER, VOCABULARY = "scores/before", "scores/after", "scores/vocabulary"
TRAINED = "training_answers.json"


class RunEvaluation:
    """What a run's evaluations need, owned from before its first step to its report, so that each folder is read once.

    The parent's copy (``Parts.start``) is let go when it was measured; at the end the stage's frozen reference stands
    for it, or the base with the adapters as the stage began with them: none where they are new, those of the adapter
    that it trains on else. Scorers stay, in the host's memory while the model is trained. A folder is read a second
    time only where training has no room for what it holds: the parent's, of a stage without a reference in memory
    (``reference_cache``, a loss that needs none), and all of a Trainer of bf16-true, which rounds the frozen networks
    of its stage too.
    """

    def __init__(self, parts: Parts, folder: RunFolder) -> None:
        self.parts, self.folder = parts, folder
        self._start_sha256: str | None = None

    @cached_property
    def evaluator(self) -> Evaluator:
        keep_sets(self.parts, self.folder)
        return evaluator_of(self.parts.cfg, self.folder.path, self.parts.stage)

    @cached_property
    def sets(self) -> Mapping[str, Heldout]:
        """By the hash of each and of the settings."""
        settings = settings_hash(self.parts.cfg, self.evaluator.training_answers)
        shown = hiding(self.parts.cfg)
        return {digest([set_hash(one), settings]): _shown(one, shown) for one in self.parts.data.heldout()}

    @cached_property
    def vocabulary(self) -> VocabularyReport | None:
        """Where the stage gave its tokenizer new tokens; the first process measures."""
        old = self.parts.tokenizer_before
        if old is None or not is_first_process() or self.parts.cfg.trainer.fast_dev_run:
            return None
        return VocabularyReport(self.parts.data.heldout(), old, self.parts.tokenizer, self._on_other_texts)

    def _on_other_texts(self, model: LoadedModel, sets: Sequence[Heldout], when: str) -> list[Scores]:
        settings = settings_hash(self.parts.cfg, self.evaluator.training_answers)
        keyed = {digest([set_hash(one), settings]): one for one in sets}
        return self.evaluator.evaluate_all(model, keyed, self.folder.path / VOCABULARY / when, f"vocabulary {when}")

    @cached_property
    def made(self) -> LoadedModel:
        """What the run made, as its folder holds it. To be asked for when the run is over."""
        model = self.parts.stage.exported()
        huggingface.as_stored(model)
        return LoadedModel(model, self.parts.tokenizer)

    def before(self) -> Metrics:
        """The scores of ``init_from`` on this run's held-out sets; taken once, and read again by a resumed run."""
        start, self.parts.start = self.parts.start, None
        if start is None:
            if self.vocabulary is not None:
                self.vocabulary.tell()
            return {}
        start.model.to(device_of(self.parts.cfg))
        scores = self.evaluator.evaluate_all(start, self.sets, self.folder.path / BEFORE, "before")
        self._start_sha256 = start.sha256
        self.evaluator.free_device()
        metrics = {one.name: one.as_metrics() for one in scores}
        if self.vocabulary is not None:
            self.vocabulary.measure(start, "before", metrics)
            network = self.parts.stage.model
            self.vocabulary.measure(LoadedModel(network.to(device_of(self.parts.cfg)), self.parts.tokenizer), "grown")
            network.to("cpu")
            self.vocabulary.tell()
        return metrics

    def by_adapters(self, device: torch.device) -> Scores | None:
        """The adapters' scores on one set before they are merged into weights of 16 bits; None where none are."""
        if not self.parts.cfg.evaluation.enabled or rounds(self.parts.stage) is None:
            return None
        return by_adapters(self.parts.stage, self.parts.tokenizer, self.evaluator, self.sets, device)

    def after(self, device: torch.device) -> tuple[Metrics, Metrics]:
        """The held-out scores of what the run made, and of what needs no model (the floors)."""
        if not self.parts.cfg.evaluation.enabled:
            keep_sets(self.parts, self.folder)
            return {}, {}
        weights = [weight for weight in self.parts.stage.parameters() if weight.is_floating_point()]  # not in 4 bits
        rounded = any(weight.dtype != torch.float32 for weight in weights)
        stage = None if rounded else self.parts.stage
        if rounded:
            self.evaluator = evaluator_of(self.parts.cfg, self.folder.path)
        self.made.model.to(device)
        reference = reference_of(self.parts.cfg, self.evaluator, self.parts.tokenizer, device, stage)
        if reference is not None:
            reference.known_sha256 = self._start_sha256
        scores = self.evaluator.evaluate_all(self.made, self.sets, self.folder.path / AFTER, "after", reference)
        metrics = {one.name: one.as_metrics() for one in scores}
        if self.vocabulary is not None:
            self.vocabulary.measure(self.made, "after", metrics)
        return metrics, {one.name: one.floors_as_metrics() for one in scores}


def keep_sets(parts: Parts, folder: RunFolder) -> None:
    """``heldout/<name>.jsonl``, so that every other model can be evaluated on them; and what was trained to be said.

    The folder gets its name when all is in it: a run that was killed meanwhile writes it again.
    """
    if folder.heldout.is_dir():
        return
    shown = hiding(parts.cfg)
    with folder_beside(folder.heldout) as unfinished:
        for heldout in parts.data.heldout():
            write_heldout(unfinished, _shown(heldout, shown))
        if hasattr(parts.data, "training_answers"):
            write_json(folder.path / TRAINED, Counter(parts.data.training_answers()))


def _shown(heldout: Heldout, shown: Callable[[str], str]) -> Heldout:
    """The set with its items' places as the configuration says them, where the environment tells a part of them."""
    return heldout._replace(items=tuple(replace(item, source=shown(item.source)) for item in heldout.items))


def trained_answers(folder: Path) -> Mapping[str, int] | None:
    """What the run was trained to say, and how often; None where the run kept none."""
    path = folder / TRAINED
    return Counter(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def evaluator_of(cfg: DictConfig, folder: Path, stage: Stage | None = None) -> Evaluator:
    """As the configuration of the run in ``folder`` says, which goes no further than here.

    Answers to prompts are judged by ``evaluation.scorers`` and the stage's reward and gold: those that ``stage`` holds,
    or ones made anew where it is None.
    """
    said, allowed = cfg.evaluation, cfg.get("allowed_targets") or ()

    def scorers() -> dict[str, Any]:
        nodes = dict(said.scorers)
        if stage is None:
            nodes |= {name: cfg.stage[name] for name in ("reward", "gold") if cfg.stage.get(name) is not None}
        made = {name: construct(node, "reward", allowed, f"the scorer {name}") for name, node in nodes.items()}
        return made | (stage.scorers() if stage is not None else {})

    settings = EvaluationSettings(
        generate=said.generate,
        max_items=said.max_items,
        max_new_tokens=said.max_new_tokens,
        temperature=said.temperature,
        batch_size=said.batch_size,
        seed=said.seed,
        bf16=in_bf16(cfg.trainer),
        progress=cfg.trainer.progress,
    )
    kind = named_class(cfg.stage, "stage", allowed)
    beside = [one for one in KINDS if issubclass(kind, Stage) and kind.is_measured_beside_its_start(one)]
    return Evaluator(settings, scorers, trained_answers(folder), beside)


def reference_of(
    cfg: DictConfig, evaluator: Evaluator, tokenizer: Tokenizer, device: torch.device, stage: Stage | None = None
) -> LoadedModel | None:
    """What an aligned model is measured beside: as ``stage`` holds it, else read. None for a run of another kind, or
    where the folder is gone."""
    if "prompts" not in evaluator.beside or not cfg.init_from or not Path(cfg.init_from).is_dir():
        return None
    held: LanguageModel | None = None if stage is None else stage.started_from()
    model: Any = huggingface.load_model(cfg.init_from, **computed_by(cfg)) if held is None else held
    return LoadedModel(model.to(device).eval(), tokenizer)


def device_of(cfg: DictConfig) -> torch.device:
    """Where a run's models are evaluated."""
    usable = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if usable else "cpu")
