"""What a batch of labelled completions must be, checked before it is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.errors import UserError
from lit_llm.records import LabelledBatch


def check_labels(batch: LabelledBatch, vocab_size: int, max_positions: int) -> None:
    """Raises UserError naming the completion of the batch and what would be right."""
    # Moved once, so that the checks do not each wait for the device.
    batch = LabelledBatch(*(None if part is None else part.cpu() for part in batch))  # type: ignore[arg-type]
    for ids, lengths in ((batch.input_ids, batch.lengths), (batch.unrelated_ids, batch.unrelated_lengths)):
        if ids is not None and lengths is not None:
            _check_tokens(ids, lengths, batch.prompt_lengths, vocab_size, max_positions)
    if batch.labels.dtype != torch.bool:
        raise UserError(f"labels: {batch.labels.dtype}; true (good) or false (bad) is needed")
    bad = _first(~(batch.weights >= 0) | ~batch.weights.isfinite())
    if bad is not None:
        raise UserError(f"labels: completion {bad} of the batch has weight {float(batch.weights[bad])}; 0 or more")


def _check_tokens(ids: Tensor, lengths: Tensor, prompt_lengths: Tensor, vocab_size: int, max_positions: int) -> None:
    largest, longest = int(ids.max()), int(lengths.max())
    if largest >= vocab_size or int(ids.min()) < 0:
        raise UserError(f"labels: token {largest}; the model's vocabulary has {vocab_size}")
    if longest > max_positions:
        raise UserError(f"labels: a completion ends at token {longest}; the model reads up to {max_positions}")
    empty = _first(lengths <= prompt_lengths)
    if empty is not None:
        raise UserError(f"labels: completion {empty} of the batch has no token; answer something or leave it out")
    headless = _first(prompt_lengths < 1)
    if headless is not None:
        raise UserError(f"labels: the prompt of completion {headless} of the batch has no token")


def _first(wrong: Tensor) -> int | None:
    """The first true place."""
    places = wrong.nonzero()
    return int(places[0]) if len(places) else None
