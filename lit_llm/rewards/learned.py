"""A reward model as a reward: what ``stage=reward_modeling`` trained, read from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lit_llm.backbone.completions import pack, token_rows
from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.loaded import load_shared
from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.model_sources.folders import folder_of
from lit_llm.records import Message
from lit_llm.rewards.base import Reward
from lit_llm.rewards.options import LearnedOptions
from lit_llm.text.score_tokens import scoring_tokenizer
from lit_llm.text.tokenizer import Tokenizer


class LearnedReward(nn.Module, Reward):
    """A reward model read from its folder, frozen. Its score is normalised as the folder says."""

    Options: ClassVar[type[LearnedOptions]] = LearnedOptions

    def __init__(self, options: LearnedOptions | None = None, **values: Any) -> None:
        """Raises UserError when the folder holds no reward model."""
        super().__init__()
        self.options = LearnedOptions.of(options, values)
        folder = str(folder_of(self.options.folder))
        self.loaded = load_shared(folder)
        model = self.loaded.model
        if not isinstance(model, ScoreModel) or model.label is not None:  # a classifier of flags has a score too
            raise UserError(f"reward.folder: {folder} holds no reward model; train one with stage=reward_modeling")
        self.model, self.tokenizer = model, self.loaded.tokenizer
        check_vocabulary(model.config, self.tokenizer.vocab_size, folder)
        self.folder, self.folders = folder, (folder,)
        self.batch_size = self.options.batch_size

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    def contexts(self) -> list[tuple[Tokenizer, int]]:
        return [(self.tokenizer, self.model.config.max_positions)]

    def check_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Raises UserError unless the policy's tokens mean the same to the reward model."""
        if (
            tokenizer is None
            or scoring_tokenizer(tokenizer).fingerprint() == scoring_tokenizer(self.tokenizer).fingerprint()
        ):
            return
        raise UserError(
            f"reward.folder: {self.folder} has a tokenizer of {self.tokenizer.vocab_size} tokens or a chat template "
            f"unlike the policy's of {tokenizer.vocab_size}; train the reward model from the same model"
        )

    @torch.no_grad()
    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows (B, T): prompt and completion with its end token, ``lengths`` (B,).

        Raises UserError for a row beyond the positions that the model was made for.
        """
        longest = self.model.config.max_positions
        if int(lengths.max()) > longest:
            raise UserError(f"reward.folder: {self.folder} reads up to {longest} tokens; got {int(lengths.max())}")
        rows = token_rows(input_ids, torch.zeros_like(lengths), lengths)
        # Packed to a few full rows: of prompts and short answers more than half would be padding.
        parts = (
            pack(rows[at : at + self.batch_size], input_ids.device.type) for at in range(0, len(rows), self.batch_size)
        )
        return torch.cat([self.model.score_completions(part.to(input_ids.device)).float() for part in parts])

    def forward(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Tensor:
        """Scores (B,) of texts."""
        rows = [
            torch.tensor(self.tokenizer.encode_prompt(prompt) + self.tokenizer.encode_completion(text))
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        device = self.model.reward_mean.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return self.score_tokens(pad_sequence(rows, batch_first=True).to(device), lengths)
