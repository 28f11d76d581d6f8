"""Training comparisons with one more answer that nobody should like: what a reward model never saw it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_llm.data.filters import group_key
from lit_llm.errors import UserError
from lit_llm.records import Comparison
from lit_llm.text.attacks import MADE, TRAINING, Conversation, Fits, attacks_of
from lit_llm.text.tokenizer import Tokenizer


def with_attacks(comparisons: Sequence[Comparison], part: float, fits: Fits) -> list[Comparison]:
    """Of ``part`` of the prompts each comparison gets an attack on its best answer, ranked below all others.

    The prompt's hash decides which attack it is, the same for all of its annotators: nobody ranked it, so it says
    nothing of them. A prompt whose attack does not fit stays as it is. No string of an attack is one that validation
    attacks with (``text.attacks.TRAINING``).
    """
    if not part:
        return list(comparisons)
    best: dict[bytes, Comparison] = {}
    for one in comparisons:
        best.setdefault(group_key(one), one)
    chosen = {key: one for key, one in best.items() if _number(key[8:12]) < part * 2**32}
    names = list(MADE)
    kinds = [names[_number(key[12:16]) % len(names)] for key in chosen]
    answers = [one.completions[one.ranks.index(1)] for one in chosen.values()]
    made = attacks_of([one.prompt for one in chosen.values()], answers, kinds, fits, TRAINING)
    added = dict(zip(chosen, made, strict=True))
    return [_below(one, added.get(group_key(one))) for one in comparisons]


def fits_in(max_length: int, tokenizer: Tokenizer) -> Fits:
    """Whether a prompt and a text have at most ``max_length`` tokens; each prompt is tokenized once."""
    sizes: dict[Conversation, int] = {}

    def fits(prompt: Conversation, text: str) -> bool:
        if prompt not in sizes:
            try:
                sizes[prompt] = len(tokenizer.encode_prompt(prompt))
            except UserError:  # refused by the template: the rows that are made of it say so
                sizes[prompt] = max_length
        room = max_length - sizes[prompt]
        # A text far too long is not worth its tokens; of n characters it may be one.
        return len(text) <= 64 * room and len(tokenizer.encode_completion(text)) <= room

    return fits


def _below(comparison: Comparison, text: str | None) -> Comparison:
    if text is None or text in comparison.completions:
        return comparison
    last = max(comparison.ranks) + 1
    completions, ranks = (*comparison.completions, text), (*comparison.ranks, last)
    return replace(comparison, completions=completions, ranks=ranks, attacked=True)


def _number(part: bytes) -> int:
    return int.from_bytes(part, "big")
