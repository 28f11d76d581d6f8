"""What a flag classifier says of answers: the chance that people flag one, and how many they would.

As a reward ``FlagProbability`` is a price: give it a weight below 0 in ``rewards.weighted``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.loaded import load_shared
from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.model_sources.folders import folder_of
from lit_llm.records import Message
from lit_llm.rewards.base import Reward
from lit_llm.rewards.options import FlagProbabilityOptions, FlagRateOptions
from lit_llm.text.score_tokens import scoring_tokenizer
from lit_llm.text.tokenizer import Tokenizer


class FlagProbability(nn.Module, Reward):
    """The probability that people flag an answer, by a classifier read from its folder, frozen."""

    Options: ClassVar[type[FlagProbabilityOptions]] = FlagProbabilityOptions

    def __init__(self, options: FlagProbabilityOptions | None = None, **values: Any) -> None:
        """Raises UserError when the folder holds no flag classifier."""
        super().__init__()
        self.options = self.Options.of(options, values)
        folder = self.folder = str(folder_of(self.options.folder))
        self.loaded = load_shared(folder)
        model = self.loaded.model
        if not isinstance(model, ScoreModel) or model.label is None:
            raise UserError(f"folder={folder}: holds no flag classifier; train one with stage=flag_classification")
        self.classifier, self.tokenizer = model, self.loaded.tokenizer
        check_vocabulary(model.config, self.tokenizer.vocab_size, folder)

    @property
    def threshold(self) -> float:
        """The probability from which on an answer is called flagged, chosen on validation when it was trained."""
        return self.classifier.threshold

    def contexts(self) -> list[tuple[Tokenizer, int]]:
        return [(self.tokenizer, self.classifier.config.max_positions)]

    def check_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Raises UserError unless the policy's tokens mean the same to the classifier."""
        if (
            tokenizer is not None
            and scoring_tokenizer(tokenizer).fingerprint() != scoring_tokenizer(self.tokenizer).fingerprint()
        ):
            raise UserError(
                f"folder={self.folder}: its tokenizer or chat template is unlike the policy's; train the flag "
                "classifier from the same model"
            )

    @torch.no_grad()
    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Probabilities (B,) of right-padded rows (B, T): prompt and answer with its end token, ``lengths`` (B,).

        Raises UserError for a row beyond the positions that the model was made for.
        """
        longest = self.classifier.config.max_positions
        if int(lengths.max()) > longest:
            raise UserError(f"folder={self.folder}: reads up to {longest} tokens; got {int(lengths.max())}")
        size = self.options.batch_size
        rows = zip(torch.split(input_ids, size), torch.split(lengths, size), strict=True)
        logits = [self.classifier(ids[:, : int(sizes.max())], sizes).float() for ids, sizes in rows]
        return torch.sigmoid(torch.cat(logits))

    def forward(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Tensor:
        """Probabilities (B,) of texts."""
        tokenizer = self.tokenizer
        rows = [
            torch.tensor(tokenizer.encode_prompt(prompt) + tokenizer.encode_completion(text))
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        device = self.classifier.score.weight.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return self.score_tokens(pad_sequence(rows, batch_first=True).to(device), lengths)


class FlagRate(FlagProbability):
    """1 where the classifier calls an answer flagged, else 0: the mean over answers is their raw rate.

    The classifier errs on both sides; ``evaluation.prevalence.rogan_gladen`` corrects the rate by its held-out
    sensitivity and specificity, which the report does.
    """

    Options: ClassVar[type[FlagProbabilityOptions]] = FlagRateOptions

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """0 or 1 (B,) of right-padded rows (B, T), ``lengths`` (B,)."""
        return (super().score_tokens(input_ids, lengths) >= self.threshold).float()
