"""What ``trainer.test`` and ``trainer.predict`` ask of a stage: the scores of held-out sets, answers to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.records import Message, Prompt, PromptBatch


def is_prompts(batch: Any) -> bool:
    """Whether a batch is a list of texts, ``Prompt``s or conversations."""
    return isinstance(batch, list) and all(isinstance(each, str | Prompt) or _is_conversation(each) for each in batch)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Message) for each in value)


def answers(model: LanguageModel, tokenizer: Any, batch: Any, max_new_tokens: int) -> list[str]:
    """The likeliest answer (greedy) to each prompt of a ``PromptBatch``, or of a list of texts (a user's turn each),
    ``Prompt``s and conversations. Raises UserError for another batch."""
    if tokenizer is None:
        raise UserError("predict: the stage has no tokenizer; give it tokenizer=")
    if isinstance(batch, PromptBatch):
        prompts: Any = (batch.input_ids, batch.lengths)
    elif is_prompts(batch):
        prompts = [tokenizer.encode_prompt(_messages(each)) for each in batch]
    else:
        raise UserError(
            f"predict: a {type(batch).__name__} holds no prompts; give the data module Prompts, or "
            "DataLoader(PROMPTS, batch_size=16, collate_fn=list)"
        )
    ends = tokenizer.end_ids
    rollout = generate(model, prompts, max_new_tokens=max_new_tokens, end_ids=ends, temperature=0.0)
    return [tokenizer.decode(ids) for ids in completions(rollout)]


def _messages(prompt: str | Prompt | Sequence[Message]) -> Sequence[Message]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return prompt.messages if isinstance(prompt, Prompt) else prompt
