"""Stage 2: go on with a domain's text, replaying general text against forgetting.

The learning rate is re-warmed and re-decayed by the schedule, the replay is the data module's (Ibrahim et al.,
arXiv:2403.08763); what is left to the stage is a vocabulary that may grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import grow_vocabulary
from lit_llm.errors import UserError
from lit_llm.stages.language import LanguageStage
from lit_llm.text.new_words import REBUILT


class ContinuedPretraining(LanguageStage):
    """Pretraining of a trained model on other text.

    Args:
        new_tokens: words of the domain that become single tokens, as they are written in it ("tensor", no space).
            Tokenizer and model are changed in place, before any data is tokenized. Not with adapters: the new rows of
            the embedding would stay as they begin.
        lora_rank: rank of the adapters (arXiv:2106.09685); 0 trains all weights.
        lora_alpha: the adapters' scale is ``lora_alpha / lora_rank``.
        lora_dropout: on the adapters' input.
        lora_targets: names of the linear layers that get one.
        base_model: name or folder of the model that an adapter belongs to; None: a run gives what it started from.
        z_loss: as in ``LanguageStage``.
    """

    name: ClassVar[str] = "continued_pretraining"

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        tokenizer: Any = None,
        new_tokens: Sequence[str] = (),
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = TARGETS,
        base_model: str | None = None,
        z_loss: float = 0.0,
    ) -> None:
        if new_tokens and lora_rank:
            raise UserError(
                f"stage.new_tokens: {list(new_tokens)}; with stage.lora_rank={lora_rank} their rows of the embedding "
                "would not be trained; leave one of the two out"
            )
        if new_tokens:
            if tokenizer is None or not all(new_tokens):
                raise UserError(f"stage.new_tokens: {list(new_tokens)}; needs a tokenizer, and no token may be empty")
            add_words(model, tokenizer, new_tokens)
        super().__init__(model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer, z_loss=z_loss)
        self.adapt(lora_rank, lora_alpha, lora_dropout, lora_targets, base_model)
        self.remember(new_tokens=list(new_tokens))


@torch.no_grad()
def add_words(model: Any, tokenizer: Any, words: Sequence[str]) -> None:
    """New tokens; each new one's row is the mean of the old ones' (Hewitt 2021), also where a row lay spare."""
    old = min(tokenizer.vocab_size, model.config.vocab_size)
    ids = tokenizer.add_tokens(list(words), pieces=model.config.family not in REBUILT)
    new = [i for i in ids if i >= old]
    grow_vocabulary(model, max(model.config.vocab_size, tokenizer.vocab_size, *(i + 1 for i in new)))
    for weight in {id(w): w for w in (model.backbone.embed_tokens.weight, model.output_weight)}.values():
        weight[new] = weight[:old].float().mean(dim=0).to(weight.dtype)
