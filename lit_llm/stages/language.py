"""Next-token prediction: what pretraining, continued pretraining, fine-tuning and instruction tuning share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.objectives.language import cross_entropy
from lit_llm.records import IGNORE, TokenBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.initial_model import Network
from lit_llm.stages.options import LanguageOptions


class LanguageStage(Stage):
    """Cross-entropy of packed rows, with bits per byte: comparable across tokenizers, where the loss is not."""

    Options: ClassVar[type[LanguageOptions]] = LanguageOptions
    batch_type: ClassVar[type] = TokenBatch
    options: LanguageOptions
    token_sizes: Tensor

    def __init__(
        self,
        options: LanguageOptions | None = None,
        *,
        model: Network,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        sizes = [] if self.tokenizer is None else token_sizes(self.tokenizer)
        self.register_buffer("token_sizes", torch.tensor(sizes, dtype=torch.int64), persistent=False)
        self.prepare()

    def prepare(self) -> None:
        """What is done to the network before it is trained: nothing."""

    def loss(self, batch: TokenBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        hidden = self.model(batch.input_ids, batch.positions, batch.segments)
        softcap = getattr(self.model, "logit_softcap", None)  # a network of one's own may have none
        result = cross_entropy(hidden, self.model.output_weight, batch.labels, self.options.z_loss, softcap=softcap)
        metrics = {"nll": result.nll}
        if len(self.token_sizes):
            trained = batch.labels != IGNORE
            metrics["bytes"] = (self.token_sizes[batch.labels.clamp_min(0)] * trained).sum()
        return result.loss, result.tokens, metrics

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """The mean negative log-likelihood in nats a token, without the z-loss, and in bits a byte of text."""
        values = {"loss": totals.get("nll", totals["loss"]) / max(totals["count"], 1.0)}
        if totals.get("bytes"):
            values["bits_per_byte"] = totals["nll"] / math.log(2) / totals["bytes"]
        return values

    def loss_of(self, totals: dict[str, float]) -> float:
        """Without the z-loss, as ``loss`` of each set."""
        return totals.get("nll", totals["loss"])


def token_sizes(tokenizer: Any) -> list[int]:
    """Bytes of text that each token stands for; a control token stands for none."""
    control = set(tokenizer.control_tokens.values())
    return [0 if token in control else len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
