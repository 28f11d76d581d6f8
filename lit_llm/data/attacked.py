"""Training comparisons with one more answer that nobody should like: what a reward model never saw it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_llm.data.filters import group_key
from lit_llm.records import Comparison
from lit_llm.text.attacks import ATTACKS, Fits, attacks


def with_attacks(comparisons: Sequence[Comparison], part: float, fits: Fits) -> list[Comparison]:
    """Of ``part`` of the prompts each comparison gets an attack on its best answer, ranked below all others.

    The prompt's hash decides which attack it is, the same for all of its annotators: nobody ranked it, so it says
    nothing of them. A prompt whose attack does not fit stays as it is.
    """
    best: dict[bytes, Comparison] = {}
    for one in comparisons:
        best.setdefault(group_key(one), one)
    chosen = [one for key, one in best.items() if _number(key[8:12]) < part * 2**32]
    made = attacks([one.prompt for one in chosen], [one.completions[one.ranks.index(1)] for one in chosen], fits)
    kinds = list(ATTACKS)
    added = {}
    for n, one in enumerate(chosen):
        key = group_key(one)
        added[key] = made[kinds[_number(key[12:16]) % len(kinds)]][n]
    return [_below(one, added.get(group_key(one))) for one in comparisons]


def _below(comparison: Comparison, text: str | None) -> Comparison:
    if text is None or text in comparison.completions:
        return comparison
    last = max(comparison.ranks) + 1
    return replace(comparison, completions=(*comparison.completions, text), ranks=(*comparison.ranks, last))


def _number(part: bytes) -> int:
    return int.from_bytes(part, "big")
