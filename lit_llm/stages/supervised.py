"""What fine-tuning and instruction tuning share: all weights or LoRA adapters, and noise on the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import LanguageModel
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import SupervisedOptions
from lit_llm.stages.start import Network


class SupervisedStage(LanguageStage):
    """Next-token prediction on the responses; which tokens those are is masked by the data module."""

    Options: ClassVar[type[SupervisedOptions]] = SupervisedOptions
    options: SupervisedOptions

    def __init__(
        self,
        options: SupervisedOptions | None = None,
        *,
        model: Network,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.adapt(self.options, self.options.lora_dropout)
        if self.options.neftune_noise_alpha:
            assert isinstance(self.model, LanguageModel)
            add_embedding_noise(self.model.backbone.embed_tokens, self.options.neftune_noise_alpha)


def add_embedding_noise(embedding: nn.Embedding, alpha: float) -> None:
    """While training, adds uniform noise of size ``alpha / sqrt(T D)`` to embedded rows (B, T, D)."""

    def noisy(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:  # noqa: ARG001
        if not module.training:
            return embedded
        size = alpha / (embedded.shape[-2] * embedded.shape[-1]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    embedding.register_forward_hook(noisy)
