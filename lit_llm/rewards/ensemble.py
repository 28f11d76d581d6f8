"""Several reward models as one: as a gold reward, or as one that is harder to exploit than each alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.base import Reward
from lit_llm.rewards.learned import LearnedReward
from lit_llm.text.tokenizer import Tokenizer

How = Literal["mean", "min", "mean_minus_std"]


class Ensemble(nn.Module, Reward):
    """Reward models of one tokenizer, their normalised scores joined (Coste et al., arXiv:2310.02743, section 3).

    Args:
        folders: two or more reward models' folders.
        how: ``mean``; ``min``, worst-case optimisation (equation 3 there); ``mean_minus_std``, uncertainty-weighted
            (equation 4), with the standard deviation in the variance's place, since it is in the score's unit.
        std_coef: weight of the disagreement in ``mean_minus_std``.
        batch_size: rows scored at once.
    """

    def __init__(self, folders: list[str], how: How = "mean", std_coef: float = 1.0, batch_size: int = 64) -> None:
        super().__init__()
        if how not in ("mean", "min", "mean_minus_std"):
            raise UserError(f"reward.how: {how}; must be mean, min or mean_minus_std")
        if len(folders) < 2 or len(set(folders)) < len(folders):
            raise UserError(f"reward.folders: {list(folders)}; give two or more different folders")
        if std_coef < 0:
            raise UserError(f"reward.std_coef: {std_coef}; must be 0 or more")
        self.how, self.std_coef, self.folders = how, std_coef, tuple(folders)
        self.members = nn.ModuleList(LearnedReward(folder, batch_size) for folder in folders)
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
        if self.how == "min":
            return stacked.amin(0)
        mean = stacked.mean(0)
        return mean if self.how == "mean" else mean - self.std_coef * stacked.std(0)
