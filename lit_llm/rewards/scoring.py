"""How any reward scores what was sampled: from the very tokens where it can, from texts where it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions
from lit_llm.records import Message, Prompt, Rollout
from lit_llm.rewards.base import Reward, as_reward


class Answers:
    """A rollout as rewards read it. Texts and prompts are looked up once, and only when a reward asks for them.

    Args:
        rollout: B answers.
        prompts: gives the B prompts that were answered.
        decode: from an answer's ids to its text.
    """

    def __init__(
        self, rollout: Rollout, prompts: Callable[[], Sequence[Prompt]], decode: Callable[[list[int]], str]
    ) -> None:
        self.rollout, self._prompts, self._decode = rollout, prompts, decode

    @cached_property
    def found(self) -> list[Prompt]:
        return list(self._prompts())

    @property
    def prompts(self) -> list[tuple[Message, ...]]:
        return [prompt.messages for prompt in self.found]

    @property
    def rows(self) -> list[Mapping[str, str]]:
        """What the data says of each prompt besides its text: the answer to a problem, its source."""
        return [prompt.tags for prompt in self.found]

    @cached_property
    def texts(self) -> list[str]:
        return [self._decode(ids) for ids in completions(self.rollout)]


@torch.no_grad()
def score(given: Any, answers: Answers, name: str = "reward") -> Tensor:
    """The scores (B,) float32 on the rollout's device; NaN where a reward could not verify an answer.

    A reward of ``parts`` has each scored as that part reads it, then put together by its ``combine``. Raises UserError
    unless there is one number for each answer.
    """
    rollout, reward = answers.rollout, as_reward(given, name)
    if reward.parts:
        scores = reward.combine({part: score(each, answers, f"{name}.{part}") for part, each in reward.parts.items()})
    elif reward.reads_tokens:
        scores = reward.score_tokens(rollout.input_ids, rollout.lengths)
    else:
        scores = reward.score_texts(answers.prompts, answers.texts, lambda: answers.rows)
    try:
        scores = torch.as_tensor(scores, dtype=torch.float32, device=rollout.lengths.device)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: gave a {type(scores).__name__} that is no list of numbers ({error})") from None
    if scores.shape != rollout.lengths.shape:
        raise UserError(f"{name}: {tuple(scores.shape)} scores for {len(rollout.lengths)} answers; one each is needed")
    return scores


def check_finite(scores: Tensor, name: str = "reward") -> None:
    """Raises UserError naming the first score that is no finite number."""
    if not bool(scores.isfinite().all()):
        bad = int((~scores.isfinite()).nonzero()[0])
        raise UserError(f"{name}: {float(scores[bad])} for answer {bad} of the rollout; must be a finite number")


def fitting(given: Any, model: LanguageModel, tokenizer: Any, name: str = "reward") -> Reward:
    """The reward (``as_reward``), if it and all its parts can score this policy's answers; a network is frozen.

    Raises UserError: nothing that can be called, texts needed but no tokenizer, another vocabulary or template.
    """
    reward = as_reward(given, name)
    for part, each in reward.parts.items():
        fitting(each, model, tokenizer, f"{name}.parts.{part}")
    if not reward.reads_tokens and not reward.parts and tokenizer is None:
        raise UserError(f"{name}: {reward.described()} reads texts, but there is no tokenizer to make them")
    if reward.vocab_size is not None and reward.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{name}: the reward model's vocabulary has {reward.vocab_size} tokens, the policy's "
            f"{model.config.vocab_size}; train the reward model from the same model"
        )
    reward.check_tokenizer(tokenizer)
    if isinstance(reward, nn.Module):
        reward.requires_grad_(False).eval()
    return reward
