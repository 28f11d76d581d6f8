"""What fine-tuning and instruction tuning share: all weights or LoRA adapters, and noise on the embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_llm.backbone.models import LanguageModel
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import SupervisedOptions


def prepare(stage: LanguageStage, options: SupervisedOptions) -> None:
    """Which tokens are trained is masked by the data module."""
    stage.adapt(options, options.lora_dropout)
    if options.neftune_noise_alpha:
        assert isinstance(stage.model, LanguageModel)
        add_embedding_noise(stage.model.backbone.embed_tokens, options.neftune_noise_alpha)


def add_embedding_noise(embedding: nn.Embedding, alpha: float) -> None:
    """While training, adds uniform noise of size ``alpha / sqrt(T D)`` to embedded rows (B, T, D)."""

    def noisy(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:  # noqa: ARG001
        if not module.training:
            return embedded
        size = alpha / (embedded.shape[-2] * embedded.shape[-1]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    embedding.register_forward_hook(noisy)
