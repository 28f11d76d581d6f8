"""What new tokens change: tokens and bits per byte of held-out text, before, right after, and when they are trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.evaluation.heldout import MAX_DOCUMENT_TOKENS
from lit_llm.evaluation.scores import Scores
from lit_llm.records import Document, Heldout
from lit_llm.text.tokenizer import Tokenizer

log = logging.getLogger("lit_llm")
BITS = "bits_per_byte"


class VocabularyReport:
    """Figures of a run whose vocabulary grows, held against the same texts: where a document has more tokens than are
    measured, all models are measured on what the old tokenizer's first ones say.

    Args:
        sets: the run's held-out sets; those of documents are taken.
        before, after: the tokenizer as it was, and with new tokens.
        evaluate: takes sets by a model; the third is a name for where the scores are kept.
    """

    def __init__(
        self,
        sets: Sequence[Heldout],
        before: Tokenizer,
        after: Tokenizer,
        evaluate: Callable[[LoadedModel, Sequence[Heldout], str], list[Scores]],
    ) -> None:
        self._evaluate = evaluate
        texts = [one for one in sets if one.kind == "documents" and one.items]
        self._sets = {one.name: cut(one, before) for one in texts}
        self._cut = {one.name for one in texts if self._sets[one.name] is not one}
        self.figures: dict[str, Any] = {
            "new_tokens": after.vocab_size - before.vocab_size,
            "vocabulary": {"before": before.vocab_size, "after": after.vocab_size},
            "sets": {},
        }
        for one in texts:
            sizes = {"before": tokens_per_byte(before, one), "after": tokens_per_byte(after, one)}
            self.figures["sets"][one.name] = {"tokens_per_byte": sizes, BITS: {}}

    def measure(
        self,
        model: LoadedModel,
        when: Literal["before", "grown", "after"],
        scores: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """``scores``: what is measured of it already, on whole documents, {set: {measure: {"mean", "se", "n"}}}."""
        known = {name: found[BITS] for name, found in (scores or {}).items() if name in self._sets.keys() - self._cut}
        rest = [one for name, one in self._sets.items() if name not in known]
        known |= {one.name: one.as_metrics()[BITS] for one in self._evaluate(model, rest, when)}
        for name, found in known.items():
            self.figures["sets"][name][BITS][when] = found["mean"]

    def tell(self) -> None:
        """In a few lines, before anything trains."""
        sizes = self.figures["vocabulary"]
        log.info("vocabulary: %s new tokens, %s in all", f"{self.figures['new_tokens']:,}", f"{sizes['after']:,}")
        for line in in_lines(self.figures):
            log.info("  %s", line)


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
