"""Several reward models as one: as a gold reward, or as one that is harder to exploit than each alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_llm.records import Message
from lit_llm.rewards.base import Reward
from lit_llm.rewards.learned import LearnedReward
from lit_llm.rewards.options import EnsembleOptions
from lit_llm.text.tokenizer import Tokenizer


class Ensemble(nn.Module, Reward):
    """Reward models of one tokenizer, their normalised scores joined (Coste et al., arXiv:2310.02743, section 3).

    Options: ``EnsembleOptions``.
    """

    Options: ClassVar[type[EnsembleOptions]] = EnsembleOptions

    def __init__(self, options: EnsembleOptions | None = None, **values: Any) -> None:
        super().__init__()
        self.options = EnsembleOptions.of(options, values)
        self.folders = tuple(self.options.folders)
        size = self.options.batch_size
        self.members = nn.ModuleList(LearnedReward(folder=folder, batch_size=size) for folder in self.folders)
        for member in self._members()[1:]:
            member.check_tokenizer(self._members()[0].tokenizer)

    def check_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Raises UserError unless the policy's tokens mean the same to every member."""
        for member in self._members():
            member.check_tokenizer(tokenizer)

    def contexts(self) -> list[tuple[Tokenizer, int]]:
        return [one for member in self._members() for one in member.contexts()]

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows (B, T), ``lengths`` (B,)."""
        return self._joined([member.score_tokens(input_ids, lengths) for member in self._members()])

    def forward(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Tensor:
        """Scores (B,) of texts."""
        return self._joined([member(prompts, completions) for member in self._members()])

    def _members(self) -> list[LearnedReward]:
        return [member for member in self.members if isinstance(member, LearnedReward)]

    def _joined(self, scores: list[Tensor]) -> Tensor:
        stacked = torch.stack(scores)
        if self.options.how == "min":
            return stacked.amin(0)
        mean = stacked.mean(0)
        return mean if self.options.how == "mean" else mean - self.options.std_coef * stacked.std(0)
