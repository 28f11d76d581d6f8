"""What fine-tuning and instruction tuning share: all weights or LoRA adapters, and noise on the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.stages.language import LanguageStage


class SupervisedStage(LanguageStage):
    """Next-token prediction on the responses; which tokens those are is masked by the data module.

    Args:
        lora_rank: rank of the adapters (Hu et al., arXiv:2106.09685); 0 trains all weights.
        lora_alpha: the adapters' scale is ``lora_alpha / lora_rank``.
        lora_dropout: on the adapters' input.
        lora_targets: names of the linear layers that get one.
        neftune_noise_alpha: strength of uniform noise on the embeddings while training (Jain et al., arXiv:2310.05914,
            algorithm 1); 0: none.
        base_model: name or folder of the model that an adapter belongs to, for its adapter_config.json; None: a run
            gives the folder that it started from.
        z_loss: as in ``LanguageStage``.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        tokenizer: Any = None,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = TARGETS,
        neftune_noise_alpha: float = 0.0,
        base_model: str | None = None,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer, z_loss=z_loss)
        if neftune_noise_alpha < 0:
            raise UserError(f"stage.neftune_noise_alpha: {neftune_noise_alpha}; must be 0 or more")
        self.adapt(lora_rank, lora_alpha, lora_dropout, lora_targets, base_model)
        if neftune_noise_alpha:
            assert isinstance(self.model, LanguageModel)
            add_embedding_noise(self.model.backbone.embed_tokens, neftune_noise_alpha)
        self.remember(neftune_noise_alpha=neftune_noise_alpha)


def add_embedding_noise(embedding: nn.Embedding, alpha: float) -> None:
    """While training, adds uniform noise of size ``alpha / sqrt(T D)`` to embedded rows (B, T, D)."""

    def noisy(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:  # noqa: ARG001
        if not module.training:
            return embedded
        size = alpha / (embedded.shape[-2] * embedded.shape[-1]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    embedding.register_forward_hook(noisy)
