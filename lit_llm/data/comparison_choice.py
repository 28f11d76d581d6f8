"""Which comparisons are trained, and what each counts: halves of the prompts, and weights of the annotators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.data.filters import group_key
from lit_llm.data.options import HALVES
from lit_llm.data.reading import Records
from lit_llm.errors import UserError
from lit_llm.records import Comparison
from lit_llm.runtime.suggestions import nearest


@dataclass(frozen=True)
class ComparisonChoice:
    """``half`` and ``annotator_weights`` of ``PreferencesOptions``."""

    half: str | None
    annotator_weights: Mapping[str, float]

    def parameters(self) -> dict[str, Any]:
        """What of this changes the rows: part of the data's fingerprint."""
        values = {"annotator_weights": dict(self.annotator_weights), "half": self.half}
        return {name: value for name, value in values.items() if value}

    def weight(self, comparison: Comparison) -> float:
        """The row's own weight times its annotator's."""
        return comparison.weight * self.annotator_weights.get(comparison.annotator, 1.0)

    def of(self, records: Records, reasons: dict[str, int]) -> Records:
        """The half of the training prompts, less what counts nothing; what is left out is counted in ``reasons``."""
        self._check_names(records)
        splits = dict(records.splits)
        if self.half is not None:
            members = records["train"]
            splits["train"] = [one for one in members if half_of(one) == self.half]
            reasons["other_half"] += len(members) - len(splits["train"])
        return Records(splits, records.counts).that_count(self.weight, reasons)

    def _check_names(self, records: Records) -> None:
        known = annotators_of(records)
        for who in self.annotator_weights:
            if who not in known:
                near = nearest(who, known)
                hint = f"did you mean {near}?" if near else f"the data names {', '.join(filter(None, known)) or 'none'}"
                raise UserError(f"data.annotator_weights.{who}: nobody of this name ranked; {hint}")


def half_of(comparison: Comparison) -> str:
    """The half that a prompt belongs to: by a bit of its hash that does not choose the split."""
    return HALVES[group_key(comparison)[8] & 1]


def annotators_of(records: Records) -> tuple[str, ...]:
    """Everybody who ranked, in order; "" stands for the rows that name nobody."""
    return tuple(sorted({one.annotator for split in records.splits.values() for one in split}))
