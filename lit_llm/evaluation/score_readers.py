"""Texts to scores for an evaluator, and which texts are short enough: of a reward model, and of any reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.evaluation.likelihood import reward_scores
from lit_llm.evaluation.reward import Rows, as_reward
from lit_llm.text.attacks import REPEATS, Conversation
from lit_llm.text.tokenizer import Tokenizer


class Reader(Protocol):
    """What an evaluator asks of a reward."""

    def fits(self, prompt: Conversation, text: str) -> bool:
        """Whether the reward can read both together."""

    def scores(
        self, prompts: Sequence[Conversation], texts: Sequence[str], rows: Rows | None = None
    ) -> NDArray[np.float64]:
        """(n,) of prompts and completions that fit; ``rows``: what the data says of each prompt besides its text."""


class Sizes:
    """Which texts fit in ``longest`` tokens of a model, prompt and end token included."""

    def __init__(self, tokenizer: Tokenizer, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        self._prompts: dict[Conversation, list[int]] = {}

    def prompt(self, prompt: Conversation) -> list[int]:
        """Ids of a prompt, which many answers share."""
        key = tuple(prompt)
        if key not in self._prompts:
            self._prompts[key] = self.tokenizer.encode_prompt(key)
        return self._prompts[key]

    def row(self, prompt: Conversation, text: str) -> list[int]:
        """Ids of prompt and completion with its end token."""
        return self.prompt(prompt) + self.tokenizer.encode_completion(text)

    def fits(self, prompt: Conversation, text: str) -> bool:
        # A text of n characters can be one token; only one far too long is not worth its tokens.
        return len(text) < 64 * self.longest and len(self.row(prompt, text)) <= self.longest


class ModelReader(Sizes):
    """A reward model; its scores are not normalised."""

    def __init__(self, model: ScoreModel, tokenizer: Tokenizer, longest: int | None, batch_tokens: int = 8192) -> None:
        context = model.config.max_positions
        super().__init__(tokenizer, context if longest is None else min(context, longest))
        self.model, self.batch_tokens = model, batch_tokens

    def scores(
        self,
        prompts: Sequence[Conversation],
        texts: Sequence[str],
        rows: Rows | None = None,  # noqa: ARG002 (a model reads texts)
    ) -> NDArray[np.float64]:
        asked = [(tuple(prompt), text) for prompt, text in zip(prompts, texts, strict=True)]
        once = list(dict.fromkeys(asked))  # each text is read once, however many annotators ranked it
        found = reward_scores(self.model, [self.row(*one) for one in once], self.batch_tokens)
        known = dict(zip(once, found, strict=True))
        return np.array([known[one] for one in asked], dtype=np.float64)


class RewardReader:
    """Any reward. What it can read is known where a reward model is part of it; else texts are repeated a few times."""

    def __init__(self, reward: Any, longest: int | None) -> None:
        self.reward = as_reward(reward)
        contexts = self.reward.contexts()
        read = [Sizes(tokenizer, min(context, longest or context)) for tokenizer, context in contexts]
        self._sizes = min(read, key=lambda size: size.longest, default=None)
        self._longest_text = math.inf

    def allow(self, texts: Sequence[str]) -> None:
        """Where no context is known: nothing longer than the longest of these so many times."""
        self._longest_text = (REPEATS + 1) * max((len(text) for text in texts), default=0) + 200

    def fits(self, prompt: Conversation, text: str) -> bool:
        return self._sizes.fits(prompt, text) if self._sizes is not None else len(text) <= self._longest_text

    @torch.no_grad()
    def scores(
        self, prompts: Sequence[Conversation], texts: Sequence[str], rows: Rows | None = None
    ) -> NDArray[np.float64]:
        if not texts:
            return np.zeros(0)
        scores = self.reward.score_texts(prompts, texts, lambda: list(rows or [{}] * len(prompts)))
        found = torch.as_tensor(scores, dtype=torch.float64).cpu().numpy()
        if found.shape != (len(texts),):
            raise UserError(f"reward: {found.shape} scores for {len(texts)} answers; one each is needed")
        return np.asarray(found, dtype=np.float64)
