"""How a run's held-out sets are taken, whichever model takes them, and what that needs: made once, and owned here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.config.schema import digest
from lit_llm.evaluation.heldout import Scorer, can_evaluate, evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.records import Heldout
from lit_llm.runtime.atomic_files import write_text


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Arguments of ``heldout.evaluate``; ``temperature``: of answers to held-out prompts alone."""

    generate: bool
    max_items: int | None
    max_new_tokens: int
    temperature: float | None
    batch_size: int
    seed: int
    bf16: bool
    progress: bool


class Evaluator:
    """Takes held-out sets by one run's settings.

    Args:
        make_scorers: gives what judges answers to held-out prompts, by name; called when the first are to be judged.
        training_answers: what the run was trained to say, and how often; None: it is not known.
        beside: the kinds of sets on which the run's model is measured beside the one that it started from.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        make_scorers: Callable[[], Mapping[str, Scorer]] = dict,
        training_answers: Mapping[str, int] | None = None,
        beside: Collection[str] = (),
    ) -> None:
        self.settings, self.training_answers, self.beside = settings, training_answers, beside
        self._make_scorers = make_scorers
        self._scorers: Mapping[str, Scorer] | None = None

    def evaluate(
        self,
        candidate: LoadedModel,
        heldout: Heldout,
        name: str,
        seed: int | None = None,
        reference: LoadedModel | None = None,
    ) -> Scores:
        """One set, by one model, with a progress bar called ``name``."""
        settings, prompts = self.settings, heldout.kind == "prompts"
        scores = evaluate(
            candidate.model,
            candidate.tokenizer,
            heldout,
            generate=settings.generate,
            max_items=settings.max_items,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature if prompts else None,
            batch_size=settings.batch_size,
            seed=settings.seed if seed is None else seed,
            bf16=settings.bf16,
            scorers=self._scorers_on(next(candidate.model.parameters()).device) if prompts else None,
            training_answers=self.training_answers if heldout.kind == "responses" else None,
            reference=reference.model if reference is not None else None,  # type: ignore[arg-type]
            progress=name if settings.progress else None,
        )
        return scores.with_sources(heldout)

    def evaluate_all(
        self,
        candidate: LoadedModel,
        sets: Mapping[str, Heldout],
        place: Path,
        name: str,
        reference: LoadedModel | None = None,
    ) -> list[Scores]:
        """Every set that the model can take; scores of the same weights, set and settings in ``place`` are read.

        ``sets``: by the hash of all that their scores depend on besides models.
        """
        found = []
        for known, heldout in sets.items():
            if not can_evaluate(candidate.model, heldout):
                continue
            parent = reference if heldout.kind in self.beside else None
            file = place / f"{heldout.name}.json"
            key = digest([known, candidate.key, None if parent is None else parent.sha256])
            mark = file.with_suffix(".key")
            if not (file.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == key):
                mark.unlink(missing_ok=True)
                self.evaluate(candidate, heldout, f"{heldout.name} {name}", reference=parent).save(file)
                write_text(mark, key)  # last: a score cut off by a kill has none
            found.append(Scores.load(file))
        return found

    def let_go(self) -> None:
        """Of the scorers, which are made again where they are needed again."""
        self._scorers = None

    def free_device(self) -> None:
        """The scorers wait in the host's memory for the next model."""
        self._move("cpu")

    def _scorers_on(self, device: Any) -> Mapping[str, Scorer]:
        if self._scorers is None:
            self._scorers = self._make_scorers()
        self._move(device)
        return self._scorers

    def _move(self, device: Any) -> None:
        for scorer in (self._scorers or {}).values():
            if isinstance(scorer, nn.Module):
                scorer.to(device)


def set_hash(heldout: Heldout) -> str:
    """The set's name, kind and items; the file of an item is said by its source."""
    items = [{name: value for name, value in asdict(item).items() if name != "file"} for item in heldout.items]
    return digest([heldout.name, heldout.kind, items])
