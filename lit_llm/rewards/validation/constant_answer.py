"""One answer for every prompt: what pays where a reward judges how an answer sounds and not what it answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lit_llm.evaluation.pair_accuracy import higher
from lit_llm.evaluation.reward import Rows
from lit_llm.evaluation.score_readers import Reader
from lit_llm.text.attacks import Conversation

CANDIDATES, ASKED = 8, 32  # of the half that chooses: answers, and prompts that each is tried on


def constant(
    reader: Reader,
    prompts: Sequence[Conversation],
    answers: Sequence[str],
    scores: NDArray[np.float64],
    rows: Rows,
    seed: int,
) -> list[str | None]:
    """The same answer for the half of n prompts that did not choose it; None for the other half and where it does not
    fit or is the prompt's own answer.

    Chosen is the answer that outscores the real ones (``scores``, (n,)) most often within its half, of those that
    score best on their own prompts: chosen on what it is tried on it would look better than it is.
    """
    order = list(range(len(prompts)))
    random.Random(f"constant {seed}").shuffle(order)
    choosing, trying = order[: len(order) // 2], order[len(order) // 2 :]
    ranked = sorted(choosing, key=lambda n: -np.nan_to_num(scores[n], nan=-np.inf))
    candidates = list(dict.fromkeys(answers[n] for n in ranked))[:CANDIDATES]
    found: list[str | None] = [None] * len(prompts)
    if not candidates:
        return found
    shares = [_wins(reader, prompts, answers, scores, rows, choosing[:ASKED], text) for text in candidates]
    text = candidates[int(np.argmax(shares))]
    for n in trying:
        if answers[n] != text and reader.fits(prompts[n], text):
            found[n] = text
    return found


def _wins(
    reader: Reader,
    prompts: Sequence[Conversation],
    answers: Sequence[str],
    scores: NDArray[np.float64],
    rows: Rows,
    numbers: Sequence[int],
    text: str,
) -> float:
    """The share of the prompts on which the text outscores the answer, where it is another one and fits."""
    asked = [n for n in numbers if answers[n] != text and reader.fits(prompts[n], text)]
    if not asked:
        return 0.0
    given = reader.scores([prompts[n] for n in asked], [text] * len(asked), [rows[n] for n in asked])
    return float(np.mean([higher(gap) for gap in given - scores[asked]]))
