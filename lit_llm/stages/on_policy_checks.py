"""What a policy that learns from its own answers is given, checked before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_llm.errors import UserError


def check_sampling(options: Mapping[str, Any]) -> None:
    """The options of every on-policy stage. Raises UserError naming the first value that makes no sense."""
    positive(options, "epochs", "minibatches", "temperature", "max_new_tokens")
    not_negative(options, "max_grad_norm", "lora_rank")
    if options.get("micro_batch_size", 1) < 1:
        raise UserError(f"stage.micro_batch_size: {options['micro_batch_size']}; must be 1 or more, or null")
    if not options.get("target_kl", 1) > 0:
        raise UserError(f"stage.target_kl: {options['target_kl']}; must be above 0, or null")


def positive(options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not options[name] > 0:
            raise UserError(f"stage.{name}: {options[name]}; must be above 0")


def not_negative(options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not options[name] >= 0:
            raise UserError(f"stage.{name}: {options[name]}; must be 0 or more")


def answer_ends(given: Sequence[int] | None, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer: as given, or the tokenizer's."""
    ids = tuple(given) if given is not None else tuple(tokenizer.end_ids) if tokenizer is not None else ()
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise UserError(f"stage.end_ids: {list(ids)}; give the tokens that end an answer, from 0 to {vocab_size - 1}")
    return ids


def check_room(longest: int, max_new_tokens: int, context: int) -> None:
    """Raises UserError where the longest prompt leaves no room for an answer of full length in the model's context."""
    if longest + max_new_tokens > context:
        raise UserError(
            f"stage.max_new_tokens={max_new_tokens}: the longest prompt has {longest} tokens, and the model's context "
            f"holds {context}; shorten prompts (data.max_prompt_length={context - max_new_tokens}, "
            "data.on_error=skip) or answers"
        )
