"""Rows that were read and are not trained: by which reason how many, and what would keep them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_llm.data.overview import LOUD
from lit_llm.data.quality import screening
from lit_llm.runtime.counted import verb

log = logging.getLogger(__name__)
ASKED_FOR = ("other_half", "no_weight", "left_out")
"""Reasons that an option or the user's own function gives."""
REMEDIES = {
    "duplicate": "they say the same as an earlier row",
    "in_heldout": "a held-out part has their text or prompt",
    "empty_text": "they hold no text",
    "all_tied": "their ranks are all equal, which says nothing",
    "unlabelled": "they stand between the best and the worst, which says neither good nor bad",
    "no_trained_token": "no token of theirs is trained (answers without a token)",
    "template_refuses": "the chat template refuses them, such as system messages; take another template or rows",
    "unknown_key": "data.ignore_keys lets keys pass",
    **screening.REMEDIES,
}


def shares(counts: Mapping[str, Any]) -> dict[str, float]:
    """What share of the rows read is dropped (or cut: ``truncated``), by reason, where it is above ``LOUD``."""
    numbers = {**counts["skipped"], "truncated": counts.get("truncated", 0)}
    found = {reason: number / max(1, counts["read"]) for reason, number in numbers.items()}
    return {reason: share for reason, share in sorted(found.items()) if share > LOUD and reason not in ASKED_FOR}


def warn(
    counts: Mapping[str, Any], noun: str, name: str, remedies: Mapping[str, str], first_bad: Mapping[str, str]
) -> None:
    """A line for each reason of ``shares``.

    Args:
        noun, name: what the rows are called, and their source.
        remedies: what to change, by reason, beside what is known of every data module's rows.
        first_bad: by reason, what is wrong with the first of them.
    """
    for reason, share in shares(counts).items():
        number = counts["skipped"].get(reason, counts.get("truncated"))
        told = remedies.get(reason) or REMEDIES.get(reason) or "mend them"
        first = f"; the first: {first_bad[reason]}" if reason in first_bad else ""
        log.warning(
            "data: %.1f%% of the %s of %s (%s of %s) %s %s: %s: %s%s",
            *(100 * share, noun, name, f"{number:,}", f"{counts['read']:,}", verb(number or 0, "is", "are")),
            *("cut" if reason == "truncated" else "dropped", reason, told, first),
        )


def room(key: str, needed: Sequence[int]) -> str:
    """Which value of a limit in tokens keeps how many of the rows that need so many each."""
    if not len(needed):
        return f"raise data.{key}"
    most, all_but_few = max(needed), int(np.ceil(np.percentile(np.asarray(needed), 99)))
    some = f"{all_but_few} keeps 99%, " if all_but_few < most else ""
    return f"data.{key}={some}{most} keeps all"
