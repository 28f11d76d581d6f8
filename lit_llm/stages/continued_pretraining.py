"""Stage 2: go on with a domain's text, replaying general text against forgetting.

The learning rate is re-warmed and re-decayed by the schedule, the replay is the data module's (Ibrahim et al.,
arXiv:2403.08763); what is left to the stage is a vocabulary that may grow.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import grow_vocabulary
from lit_llm.backbone.new_rows import set_to_means, token_tables, train_rows
from lit_llm.errors import UserError
from lit_llm.optim.row_rates import learn_faster
from lit_llm.stages.initial_model import Network, initial_model
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import ContinuedPretrainingOptions
from lit_llm.text.merges import LearnedMerges
from lit_llm.text.new_words import REBUILT

log = logging.getLogger("lit_llm")
NEW_ROWS = "new_rows"


class ContinuedPretraining(LanguageStage):
    """Pretraining of a trained model on other text.

    Tokenizer and model get the new tokens in place, before any data is tokenized.

    Args:
        learned: for ``new_tokens="auto:N"``, what ``text.merges.learn_merges`` found in the training text. A checkpoint
            holds the tokenizer that has grown, and its options ask for no more.
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
        learned: LearnedMerges | None = None,
    ) -> None:
        options = options or self.Options()
        network, tokenizer = initial_model(model, tokenizer, self.head, options)
        new: list[int] = []
        if options.new_tokens:
            if tokenizer is None:
                raise options.bad_tokens()
            if not options.learned_tokens:
                new = add_words(network, tokenizer, options.new_tokens)
            elif learned is None:
                raise UserError(
                    f"stage.new_tokens={options.new_tokens}: are learned by a run of scripts/train.py; here give "
                    f"learned=learn_merges(tokenizer.engine, texts, {options.learned_tokens})"
                )
            else:
                new = add_merges(network, tokenizer, learned)
                options = dataclasses.replace(options, new_tokens=())
        self.new_rows = new  # ids that the vocabulary has grown by
        super().__init__(options, model=network, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)

    def prepare(self) -> None:
        self.adapt(self.options, self.options.lora_dropout)
        self._train_new_rows()

    def _train_new_rows(self) -> None:
        if self.new_rows and self.lora_rank:
            train_rows(self.model, self.new_rows)

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        if self.options.new_rows_lr is not None:
            learn_faster(made["optimizer"], token_tables(self.model), self.new_rows, self.options.new_rows_lr)
        return made

    def save(self, folder: str | Path) -> None:
        """As every stage's; with new tokens the adapter is in the merged model alone, since its base has no rows."""
        if not (self.new_rows and self.lora_rank):
            super().save(folder)
            return
        self.save_whole(folder)
        log.info("no adapter/ is written beside the merged model: its base has no rows for the new tokens")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[NEW_ROWS] = list(self.new_rows)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if not self.new_rows and checkpoint.get(NEW_ROWS):  # of a stage made from the checkpoint, which had grown
            self.new_rows = list(checkpoint[NEW_ROWS])
            self._train_new_rows()


@torch.no_grad()
def add_words(model: Any, tokenizer: Any, words: Sequence[str]) -> list[int]:
    """New tokens, whose ids are returned; each new one's row is the mean of the old ones' (Hewitt 2021), also where a
    row lay spare."""
    old = min(tokenizer.vocab_size, model.config.vocab_size)
    ids = tokenizer.add_tokens(list(words), pieces=model.config.family not in REBUILT)
    new = [i for i in ids if i >= old]
    grow_vocabulary(model, max(model.config.vocab_size, tokenizer.vocab_size, *(i + 1 for i in new)))
    for weight in {id(w): w for w in (model.backbone.embed_tokens.weight, model.output_weight)}.values():
        weight[new] = weight[:old].float().mean(dim=0).to(weight.dtype)
    return new


def add_merges(model: Any, tokenizer: Any, learned: LearnedMerges) -> list[int]:
    """New tokens of a BPE that merges on, whose ids are returned; rows that lie spare are taken first."""
    pieces = tokenizer.add_merges(learned)
    grow_vocabulary(model, max(model.config.vocab_size, tokenizer.vocab_size))
    set_to_means(model, pieces)
    return list(pieces)
