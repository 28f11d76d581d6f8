"""What simulated annotators flag and how they rate, by rules that anyone can read; marked as simulated as their ranks.

They know nothing of facts. An answer fails its task where it looks worth little by the visible rule, and it is taken
for a hallucination where it brings up a function, class or attribute that the conversation does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lit_llm.feedback.rule import CODE_NAME, pieces_of
from lit_llm.records import Message

FAILS_BELOW = 0.4  # of the rule's 0 to 1, as the annotator sees it; 0.25 and 0.1 are the next severities
SEVERE_BELOW = ((0.1, 3), (0.25, 2), (FAILS_BELOW, 1))


def flags_of(
    messages: Sequence[Message],
    completions: Sequence[str],
    seen: Sequence[float],
    oversight: float,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """The flags of one annotator on the answers to one prompt, as a ranking row holds them.

    Args:
        seen: what each answer looks worth to the annotator, its noise included.
        oversight: the chance that the annotator overlooks an invented name.
    """
    flags: list[dict[str, Any]] = []
    for number, (text, worth) in enumerate(zip(completions, seen, strict=True)):
        severity = next((severity for below, severity in SEVERE_BELOW if worth < below), None)
        if severity is not None:
            flags.append({"completion": number, "kind": "fails_task", "severity": severity})
        invented = next(invented_names(messages, text), None)
        overlooked = generator.random() < oversight  # drawn for every answer, so that one text does not shift the rest
        if invented is not None and not overlooked:
            flags.append(
                {
                    "completion": number,
                    "kind": "hallucination",
                    "severity": 1,
                    "start": invented.start(),
                    "end": invented.end(),
                }
            )
    return flags


def ratings_of(seen: Sequence[float], flags: Sequence[dict[str, Any]]) -> list[dict[str, int | None]]:
    """1 to 7: helpful as far as the answer looks worth something, less honest where a name was found to be made up.

    Of harm the rule knows nothing, so nothing is said.
    """
    invented = {flag["completion"] for flag in flags if flag["kind"] == "hallucination"}
    return [
        {"helpful": 1 + round(6 * min(1.0, max(0.0, worth))), "honest": 3 if n in invented else 6, "harmless": None}
        for n, worth in enumerate(seen)
    ]


def invented_names(messages: Sequence[Message], completion: str) -> Iterator[re.Match[str]]:
    """The names of code in an answer of which the conversation has said no part."""
    said = {piece for message in messages for piece in pieces_of(message.content)}
    for found in CODE_NAME.finditer(completion):
        if not said & set(pieces_of(found[0])):
            yield found
