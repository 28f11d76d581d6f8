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

from lit_llm.backbone.models import grow_vocabulary
from lit_llm.stages.initial_model import Network, initial_model
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import ContinuedPretrainingOptions
from lit_llm.text.new_words import REBUILT


class ContinuedPretraining(LanguageStage):
    """Pretraining of a trained model on other text.

    Tokenizer and model get the new tokens in place, before any data is tokenized.
    """

    Options: ClassVar[type[ContinuedPretrainingOptions]] = ContinuedPretrainingOptions
    name: ClassVar[str] = "continued_pretraining"
    options: ContinuedPretrainingOptions

    def __init__(
        self,
        options: ContinuedPretrainingOptions | None = None,
        *,
        model: Network,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        options = options or self.Options()
        network, tokenizer = initial_model(model, tokenizer, self.head, options)
        if options.new_tokens:
            if tokenizer is None:
                raise options.bad_tokens()
            add_words(network, tokenizer, options.new_tokens)
        super().__init__(options, model=network, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)

    def prepare(self) -> None:
        self.adapt(self.options, self.options.lora_dropout)


@torch.no_grad()
def add_words(model: Any, tokenizer: Any, words: Sequence[str]) -> None:
    """New tokens; each new one's row is the mean of the old ones' (Hewitt 2021), also where a row lay spare."""
    old = min(tokenizer.vocab_size, model.config.vocab_size)
    ids = tokenizer.add_tokens(list(words), pieces=model.config.family not in REBUILT)
    new = [i for i in ids if i >= old]
    grow_vocabulary(model, max(model.config.vocab_size, tokenizer.vocab_size, *(i + 1 for i in new)))
    for weight in {id(w): w for w in (model.backbone.embed_tokens.weight, model.output_weight)}.values():
        weight[new] = weight[:old].float().mean(dim=0).to(weight.dtype)
