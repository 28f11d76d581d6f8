"""What new tokens change: tokens and bits per byte of held-out text, before, right after, and when they are trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.config.schema import digest
from lit_llm.evaluation.evaluator import set_hash
from lit_llm.evaluation.heldout import MAX_DOCUMENT_TOKENS
from lit_llm.records import Document, Heldout
from lit_llm.text.tokenizer import Tokenizer
from lit_llm.training.evaluation_key import settings_hash

if TYPE_CHECKING:
    from lit_llm.training.build import Parts
    from lit_llm.training.evaluate import RunEvaluation

log = logging.getLogger("lit_llm")
SCORES = "scores/vocabulary"
BITS = "bits_per_byte"


class VocabularyReport:
    """Figures of a run whose vocabulary grows, held against the same texts: where a document has more tokens than are
    measured, all models are measured on what the old tokenizer's first ones say.

    Args:
        before: the tokenizer as it was.
    """

    def __init__(self, parts: Parts, evaluation: RunEvaluation, before: Tokenizer) -> None:
        self.parts, self.evaluation, self.old = parts, evaluation, before
        sets = [one for one in parts.data.heldout() if one.kind == "documents" and one.items]
        self.sets = {one.name: cut(one, before) for one in sets}
        self.cut = {one.name for one in sets if self.sets[one.name] is not one}
        new = parts.tokenizer.vocab_size - before.vocab_size
        sizes = {"before": before.vocab_size, "after": parts.tokenizer.vocab_size}
        self.figures: dict[str, Any] = {"new_tokens": new, "vocabulary": sizes, "sets": {}}
        for one in sets:
            per_byte = {
                "before": tokens_per_byte(before, one), "after": tokens_per_byte(parts.tokenizer, one)
            }  # fmt: skip
            self.figures["sets"][one.name] = {"tokens_per_byte": per_byte, BITS: {}}

    def measure_before(self, start: LoadedModel, scores: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
        """The model that the run starts from, by its ``scores`` where no text is cut; and the one with new rows.

        The network of the stage is on the CPU afterwards, as before."""
        self._measure(start, "before", scores)
        network = self.parts.stage.model
        try:
            self._take(LoadedModel(network.to(device), self.parts.tokenizer), "grown", self.sets)
        finally:
            network.to("cpu")

    def measure_after(self, made: LoadedModel, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """The model that the run made."""
        self._measure(made, "after", scores)

    def tell(self) -> None:
        """In a few lines, before anything trains."""
        sizes = self.figures["vocabulary"]
        log.info("vocabulary: %s new tokens, %s in all", f"{self.figures['new_tokens']:,}", f"{sizes['after']:,}")
        for line in in_lines(self.figures):
            log.info("  %s", line)

    def _measure(self, model: LoadedModel, when: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
        for name in self.sets.keys() - self.cut:
            if BITS in scores.get(name, {}):
                self._note(name, when, scores[name][BITS]["mean"])
        self._take(model, when, self.cut)

    def _take(self, model: LoadedModel, when: str, names: Iterable[str]) -> None:
        evaluator, place = self.evaluation.evaluator, self.evaluation.folder.path / SCORES / when
        settings = settings_hash(self.parts.cfg, evaluator.training_answers)
        sets = {digest([set_hash(self.sets[name]), settings]): self.sets[name] for name in sorted(names)}
        for one in evaluator.evaluate_all(model, sets, place, f"vocabulary {when}"):
            self._note(one.name, when, one.as_metrics()[BITS]["mean"])

    def _note(self, name: str, when: str, bits: float | None) -> None:
        self.figures["sets"][name][BITS][when] = bits


def in_lines(figures: Mapping[str, Any]) -> list[str]:
    """A line for each held-out set."""
    found = []
    for name, one in figures["sets"].items():
        tokens, bits = one["tokens_per_byte"], one[BITS]
        line = f"held-out {name}: {tokens['before']:.4g} tokens per byte before, {tokens['after']:.4g} with new tokens"
        said = {"before": "before", "grown": "grown and untrained", "after": "trained"}
        told = [f"{bits[when]:.4g} {words}" for when, words in said.items() if bits.get(when) is not None]
        found.append(line + (f"; bits per byte {', '.join(told)}" if told else ""))
    return found


def tokens_per_byte(tokenizer: Tokenizer, heldout: Heldout) -> float:
    """Over all documents, each by itself."""
    texts = [item.text for item in heldout.items if isinstance(item, Document)]
    return sum(map(len, tokenizer.encode_batch(texts))) / max(1, sum(len(text.encode()) for text in texts))


def cut(heldout: Heldout, tokenizer: Tokenizer, most: int = MAX_DOCUMENT_TOKENS) -> Heldout:
    """The set with each document up to where ``tokenizer`` has made so many tokens; itself where none has more."""
    items = []
    for item in heldout.items:
        assert isinstance(item, Document)
        ids = tokenizer.encode(item.text) if len(item.text.encode()) > most else []
        text = tokenizer.decode(ids[:most]).removesuffix("\ufffd") if len(ids) > most else item.text
        items.append(item if text == item.text else replace(item, text=text))
    same = all(one is other for one, other in zip(items, heldout.items, strict=True))
    return heldout if same else heldout._replace(items=tuple(items))
