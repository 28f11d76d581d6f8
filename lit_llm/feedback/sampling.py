"""Answers to rank: several different ones of one model to each prompt, or one of each of two models."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_llm.backbone.models import LanguageModel
from lit_llm.data.filters import clean
from lit_llm.data.reading import read_records
from lit_llm.errors import UserError
from lit_llm.generation.command import load
from lit_llm.generation.sampling import completions, generate
from lit_llm.model_sources.adapters import base_files, base_of
from lit_llm.model_sources.folders import folder_of
from lit_llm.records import Prompt
from lit_llm.runtime.devices import Device
from lit_llm.runtime.model_folder import is_adapter
from lit_llm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lit_llm.feedback.store.projects import NewCandidate, NewItem


@dataclass(frozen=True)
class Sampling:
    """How the answers were drawn; written on every row."""

    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str  # "stop": it ended with an end token; "length": the limit or the context cut it


@dataclass(frozen=True)
class Answered:
    """Items to rank, and what could not become one."""

    items: list[NewItem]
    too_long: int = 0  # prompts that leave no room for an answer
    too_few_answers: int = 0  # prompts whose answers came out the same (or empty)

    def __str__(self) -> str:
        left = [("too long", self.too_long), ("with too few different answers", self.too_few_answers)]
        told = ", ".join(f"{count} {what}" for what, count in left if count)
        return f"{len(self.items)} prompts to rank" + (f" (left out: {told})" if told else "")


def answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    k: int,
    sampling: Sampling,
    *,
    batch_size: int = 64,
    bf16: bool = False,
    progress: str | None = None,
) -> list[list[Answer] | None]:
    """Up to k different answers to each prompt, none empty or with a NUL byte; None where there is no room for one.

    Half as many again are drawn, since some come out the same.
    """
    encoded = [_ids(tokenizer, prompt) for prompt in prompts]
    room = model.config.max_positions - sampling.max_new_tokens
    fits = [i for i, ids in enumerate(encoded) if len(ids) <= room]
    if not fits:
        return [None] * len(prompts)
    draws = k + max(1, k // 2) if k > 1 else 1
    rollout = generate(
        model,
        [encoded[i] for i in fits],
        max_new_tokens=sampling.max_new_tokens,
        end_ids=tokenizer.end_ids,
        temperature=sampling.temperature,
        samples=draws,
        seed=sampling.seed,
        batch_size=batch_size,
        dtype=torch.bfloat16 if bf16 else None,
        progress=progress,
    )
    reasons = ["stop" if finished else "length" for finished in rollout.finished.tolist()]
    texts = [tokenizer.decode(ids) for ids in completions(rollout)]
    drawn = [
        Answer(clean(text).strip(), reason) for text, reason in zip(texts, reasons, strict=True)
    ]  # as data reads it
    drawn = [Answer("", each.finish_reason) if "\0" in text else each for text, each in zip(texts, drawn, strict=True)]
    found: list[list[Answer] | None] = [None] * len(prompts)
    for place, i in enumerate(fits):
        own: dict[str, Answer] = {}
        for answer in drawn[place * draws : (place + 1) * draws]:
            if answer.text:
                own.setdefault(answer.text, answer)
        found[i] = list(own.values())[:k]
    return found


def _ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    try:
        return tokenizer.encode_prompt(prompt.messages)
    except UserError as error:  # the template refuses it
        raise UserError(f"{prompt.source}: {error}") from None


def items_to_rank(
    model: Path,
    prompts: str,
    k: int,
    sampling: Sampling,
    *,
    max_prompts: Mapping[str, int] | int | None,
    device: Device,
    batch_size: int,
) -> Answered:
    """K answers of a model to each prompt of some files, with the split that each prompt belongs to.

    Raises UserError: k below 2, no such model or prompts, or no prompt with two different answers.
    """
    from lit_llm.feedback.store.projects import NewItem

    if k < 2:
        raise UserError(f"k={k}: a ranking needs at least 2 answers")
    splits = read_prompts(prompts, max_prompts, sampling.seed)
    every = [(split, prompt) for split, members in splits.items() for prompt in members]
    found = _of_model(model, [prompt for _, prompt in every], k, sampling, device, batch_size)
    enough = [
        (split, prompt, some) for (split, prompt), some in zip(every, found, strict=True) if some and len(some) > 1
    ]
    if not enough:
        raise UserError(f"prompts={prompts}: none of {len(every)} has two different answers; raise temperature or k")
    items = [NewItem(prompt.messages, some, _tags(prompt), split) for split, prompt, some in enough]
    too_long = sum(some is None for some in found)
    return Answered(items, too_long, len(every) - len(items) - too_long)


def items_to_compare(
    after: Path,
    before: Path,
    prompts: str,
    sampling: Sampling,
    *,
    max_prompts: int | None,
    device: Device,
    batch_size: int,
) -> Answered:
    """One answer of each of two models to each prompt of some files, to be judged blind.

    Prompts that both answer alike cannot be judged; ``win_rate`` tells how many they are, from the tag
    ``answered_alike`` that every item has, and counts them nowhere. Raises UserError as ``items_to_rank``.
    """
    from lit_llm.feedback.store.projects import NewItem

    if checkpoint_id(after) == checkpoint_id(before):
        raise UserError(f"against={before}: has the weights of model={after}; two different models are compared")
    splits = read_prompts(prompts, max_prompts, sampling.seed)
    every = [(split, prompt) for split, members in splits.items() for prompt in members]
    asked = [prompt for _, prompt in every]
    new, old = (_of_model(model, asked, 1, sampling, device, batch_size) for model in (after, before))
    pairs = [(*at, a[0], b[0]) for at, a, b in zip(every, new, old, strict=True) if a and b]
    names = {"after_model": str(after), "before_model": str(before)}
    alike = sum(a.text == b.text for _, _, a, b in pairs)
    items = [
        NewItem(prompt.messages, [a, b], {**_tags(prompt), **names, "answered_alike": str(alike)}, split)
        for split, prompt, a, b in pairs
        if a.text != b.text
    ]
    if not items:
        raise UserError(
            f"prompts={prompts}: both models answer each of {len(every)} alike; there is nothing to compare"
        )
    too_long = sum(a is None or b is None for a, b in zip(new, old, strict=True))
    return Answered(items, too_long, len(every) - len(items) - too_long)


def read_prompts(prompts: str, most: Mapping[str, int] | int | None, seed: int) -> dict[str, list[Prompt]]:
    """The prompts of some files by split; at most so many of each split, or in all where ``most`` is a number."""
    splits = {name: members for name, members in read_records(prompts, "prompts").splits.items() if members}
    total = sum(len(members) for members in splits.values())
    if not isinstance(most, int) or total <= most:
        return chosen_prompts(splits, most, seed)
    if most < 1:
        raise UserError(f"max_prompts={most}: must be at least 1")
    kept = set(random.Random(seed).sample(range(total), most))
    numbers = iter(range(total))
    return {name: [prompt for prompt in members if next(numbers) in kept] for name, members in splits.items()}


def chosen_prompts(
    splits: Mapping[str, list[Any]], most: Mapping[str, int] | int | None, seed: int
) -> dict[str, list[Any]]:
    """At most so many prompts of each split, in their order; further tests (test_<name>) join the test."""
    joined: dict[str, list[Any]] = {}
    for name, members in splits.items():
        joined.setdefault("test" if name.startswith("test") else name, []).extend(members)
    chosen = {}
    for name, members in joined.items():
        limit = most.get(name) if isinstance(most, Mapping) else most
        if limit is not None and limit < len(members):
            members = [members[i] for i in sorted(random.Random(seed).sample(range(len(members)), limit))]
        chosen[name] = members
    return chosen


def checkpoint_id(folder: str | Path) -> str:
    """The first 16 digits of the SHA-256 of a model folder's weights, of an adapter's with those of its base."""
    digest, folder = hashlib.sha256(), folder_of(folder)
    bases = base_files(base_of(folder)) if is_adapter(folder) else []
    for file in [*sorted(folder.glob("*.safetensors")), *bases]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _of_model(
    folder: Path, prompts: Sequence[Prompt], k: int, sampling: Sampling, device: Device, batch_size: int
) -> list[list[NewCandidate] | None]:
    from lit_llm.feedback.store.projects import NewCandidate

    model, tokenizer = load(folder, device)
    checkpoint, how = checkpoint_id(folder), {**asdict(sampling), "draws": k + max(1, k // 2) if k > 1 else 1}
    found = answers(model, tokenizer, prompts, k, sampling, batch_size=batch_size, progress=f"answers of {folder.name}")
    if prompts and all(some is None for some in found):
        room = f"none of {len(prompts)} prompts leaves that room in the model's {model.config.max_positions} positions"
        raise UserError(f"max_new_tokens={sampling.max_new_tokens}: {room}; lower it")
    return [
        None
        if some is None
        else [NewCandidate(a.text, str(folder), checkpoint, how, sampling.seed, a.finish_reason) for a in some]
        for some in found
    ]


def _tags(prompt: Prompt) -> dict[str, str]:
    return {**prompt.tags, "prompt_source": Path(prompt.source).name} if prompt.source else dict(prompt.tags)
