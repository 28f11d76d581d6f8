"""The held-out evaluation of a run: its sets kept as files, taken by the parent before and by the model after.

Every score is kept item by item, so that the pipeline's ledger need not evaluate anything twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lit_llm.backbone import huggingface
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.weights import weights_hash
from lit_llm.config.environment import hiding
from lit_llm.config.targets import construct, named_class
from lit_llm.evaluation.heldout import can_evaluate, evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import write_heldout
from lit_llm.records import Heldout
from lit_llm.runtime.atomic_files import folder_beside, write_json, write_text
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.stages.base import Stage
from lit_llm.text.tokenizer import load_tokenizer
from lit_llm.training.build import Parts
from lit_llm.training.evaluation_key import key_of, settings_hash
from lit_llm.training.trainer import in_bf16

Metrics = dict[str, dict[str, Any]]  # {set: {measure: {"mean", "se", "n"}}}
BEFORE, AFTER, TRAINED = "scores/before", "scores/after", "training_answers.json"


def evaluate_parent(parts: Parts, folder: RunFolder) -> Metrics:
    """The scores of ``init_from`` on this run's held-out sets; taken once, and read again by a resumed run."""
    cfg = parts.cfg
    if not (cfg.evaluation.enabled and cfg.evaluation.before and cfg.init_from) or cfg.trainer.fast_dev_run:
        return {}
    if not is_first_process():
        return {}
    keep_sets(parts, folder)
    device = device_of(cfg)
    model = huggingface.load_model(cfg.init_from, head="auto", device=device)
    tokenizer, evaluator = load_tokenizer(cfg.init_from), Evaluator(cfg, trained_answers(folder.path), device)
    scores = evaluator.evaluate_all(model, tokenizer, parts.data.heldout(), folder.path / BEFORE, "before")
    return {one.name: one.as_metrics() for one in scores}


def evaluate_result(parts: Parts, folder: RunFolder, device: torch.device) -> tuple[Metrics, Metrics]:
    """The held-out scores of what the run made, and of what needs no model (the floors)."""
    keep_sets(parts, folder)
    if not parts.cfg.evaluation.enabled:
        return {}, {}
    model = parts.stage.exported().to(device)
    huggingface.as_stored(model)  # what is measured is what the folder holds
    evaluator = Evaluator(parts.cfg, trained_answers(folder.path), device)
    sets, reference = parts.data.heldout(), parent_of(parts.cfg, device)
    scores = evaluator.evaluate_all(model, parts.tokenizer, sets, folder.path / AFTER, "after", reference)
    return {one.name: one.as_metrics() for one in scores}, {one.name: one.floors_as_metrics() for one in scores}


def keep_sets(parts: Parts, folder: RunFolder) -> None:
    """``heldout/<name>.jsonl``, so that every other model can be evaluated on them; and what was trained to be said.

    The folder gets its name when all is in it: a run that was killed meanwhile writes it again.
    """
    if folder.heldout.is_dir():
        return
    shown = hiding(parts.cfg)
    with folder_beside(folder.heldout) as unfinished:
        for heldout in parts.data.heldout():
            items = tuple(replace(item, source=shown(item.source)) for item in heldout.items)
            write_heldout(unfinished, heldout._replace(items=items))
        if hasattr(parts.data, "training_answers"):
            write_json(folder.path / TRAINED, Counter(parts.data.training_answers()))


def trained_answers(folder: Path) -> Mapping[str, int] | None:
    """What the run was trained to say, and how often; None where the run kept none."""
    path = folder / TRAINED
    return Counter(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def beside_parent(cfg: DictConfig, kind: str) -> bool:
    """Whether what a run makes is measured beside its parent on a kind of set, as its stage says."""
    stage = named_class(cfg.stage, "stage", cfg.get("allowed_targets") or ())
    return issubclass(stage, Stage) and stage.is_measured_beside_its_start(kind)


def parent_of(cfg: DictConfig, device: torch.device) -> LanguageModel | None:
    """The model that an aligned one is measured beside; None for a run of another kind, or where the parent is gone."""
    if not beside_parent(cfg, "prompts") or not cfg.init_from or not Path(cfg.init_from).is_dir():
        return None
    return huggingface.load_language_model(cfg.init_from, device=device).eval()


class Evaluator:
    """How a run's held-out sets are taken: by its own configuration, whichever model takes them."""

    def __init__(self, cfg: DictConfig, training_answers: Mapping[str, int] | None, device: torch.device) -> None:
        self.cfg, self.training_answers, self.device = cfg, training_answers, device
        self._scorers: dict[str, Callable[..., Any]] | None = None

    @property
    def scorers(self) -> Mapping[str, Callable[..., Any]]:
        """What judges answers to held-out prompts: the stage's reward and gold, and those of ``evaluation.scorers``."""
        if self._scorers is None:
            nodes = dict(self.cfg.evaluation.scorers)
            if self.cfg.stage.get("reward") is not None:
                nodes["reward"] = self.cfg.stage.reward
            if self.cfg.stage.get("gold") is not None:
                nodes["gold"] = self.cfg.stage.gold
            allowed = self.cfg.get("allowed_targets") or ()
            made = {name: construct(node, "reward", allowed, f"the scorer {name}") for name, node in nodes.items()}
            for scorer in made.values():
                if isinstance(scorer, nn.Module):
                    scorer.to(self.device)
            self._scorers = made
        return self._scorers

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: Any,
        heldout: Heldout,
        name: str,
        seed: int | None = None,
        reference: LanguageModel | None = None,
    ) -> Scores:
        """One set, by one model, with a progress bar called ``name``."""
        settings = self.cfg.evaluation
        return evaluate(
            model,  # type: ignore[arg-type]
            tokenizer,
            heldout,
            generate=settings.generate,
            max_items=settings.max_items,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature if heldout.kind == "prompts" else None,
            batch_size=settings.batch_size,
            seed=settings.seed if seed is None else seed,
            bf16=in_bf16(self.cfg.trainer),
            scorers=self.scorers if heldout.kind == "prompts" else None,
            training_answers=self.training_answers if heldout.kind == "responses" else None,
            reference=reference,
            progress=name if self.cfg.trainer.progress else None,
        )

    def evaluate_all(
        self,
        model: nn.Module,
        tokenizer: Any,
        sets: Iterable[Heldout],
        place: Path,
        name: str,
        reference: LanguageModel | None = None,
    ) -> list[Scores]:
        """Every set that the model can take; scores of the same weights, set and settings in ``place`` are read."""
        found = []
        settings = settings_hash(self.cfg, self.training_answers)
        ours, theirs = (None if one is None else weights_hash(one) for one in (model, reference))
        for heldout in sets:
            if not can_evaluate(model, heldout):
                continue
            parent = reference if beside_parent(self.cfg, heldout.kind) else None
            same = (ours, theirs if parent is not None else None, tokenizer.fingerprint(), settings)
            file, key = place / f"{heldout.name}.json", key_of(heldout, *same)
            mark = file.with_suffix(".key")
            if not (file.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == key):
                mark.unlink(missing_ok=True)
                self.evaluate(model, tokenizer, heldout, f"{heldout.name} {name}", reference=parent).save(file)
                write_text(mark, key)  # last: a score cut off by a kill has none
            found.append(Scores.load(file))
        return found


def device_of(cfg: DictConfig) -> torch.device:
    """Where a run's models are evaluated."""
    usable = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if usable else "cpu")
