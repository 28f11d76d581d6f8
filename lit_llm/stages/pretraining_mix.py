"""Pretraining text mixed into PPO (PPO-ptx), so that what the policy knew before is not forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.objectives.language import cross_entropy
from lit_llm.records import IGNORE, TokenBatch


class PretrainingMix:
    """Batches of pretraining text without end, from a loader of TokenBatch that remembers its place.

    Args:
        loader: has ``state_dict`` and ``load_state_dict``; every ``iter`` of it is another epoch.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._batches: Iterator[TokenBatch] | None = None

    @classmethod
    def of(cls, data: Any, coef: float) -> PretrainingMix | None:
        """The mix that a run's data offers; None where nothing is to be mixed in.

        Raises UserError where text is wanted and there is none, or there is text that nothing would read.
        """
        loader = data.ptx_loader() if hasattr(data, "ptx_loader") else None
        if coef and loader is None:
            raise UserError(f"stage.ptx_coef={coef}: there is no pretraining text; give data.ptx_path")
        if loader is not None and not coef:
            path = data.options.ptx_path
            raise UserError(f"data.ptx_path={path}: nothing reads it; give stage.ptx_coef (InstructGPT: 27.8)")
        return None if loader is None else cls(loader)

    def next(self) -> TokenBatch:
        """The next batch, on the loader's device."""
        for _ in range(2):  # where an epoch is over, the next one
            self._batches = iter(self.loader) if self._batches is None else self._batches
            batch: TokenBatch | None = next(self._batches, None)
            if batch is not None:
                return batch
            self._batches = None
        raise UserError("data.ptx_path: an epoch of it holds no batch")

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.loader.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)
        self._batches = None


def next_token_loss(model: LanguageModel, batch: TokenBatch, tokens: Tensor) -> Tensor:
    """The rows' summed negative log-likelihood in nats over ``tokens``, the count of the batch they are part of: ()."""
    hidden = model(batch.input_ids, batch.positions, batch.segments)
    return cross_entropy(hidden, model.output_weight, batch.labels, softcap=model.logit_softcap).loss / tokens


def trained_tokens(batch: TokenBatch) -> Tensor:
    """How many tokens of a batch are predicted: (), at least 1."""
    return (batch.labels != IGNORE).sum().clamp_min(1)


def parts_of(batch: TokenBatch, rows: int | None) -> Iterator[TokenBatch]:
    """The batch in parts of so many rows; None: whole."""
    size = rows or len(batch.labels)
    yield from (TokenBatch(*each) for each in zip(*(torch.split(column, size) for column in batch), strict=True))
