"""A model's evaluation on a held-out set: any model, at any time, item by item."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.evaluation import answers, flags, labels, likelihood, rankings
from lit_llm.evaluation.reward import Reward
from lit_llm.evaluation.scores import Scores, clusters_of, measured
from lit_llm.evaluation.statistics import Estimate, ratio
from lit_llm.records import Heldout, Message
from lit_llm.text.tokenizer import Tokenizer

MAX_DOCUMENT_TOKENS = 2048
"""Of a document that are measured."""

Scorer = Reward | Callable[[Sequence[Sequence[Message]], Sequence[str]], Any]


def can_evaluate(model: nn.Module, heldout: Heldout) -> bool:
    """Whether ``model`` can take this set: a reward model takes rankings only, a flag classifier flags only, which no
    other takes; nothing takes an empty set."""
    if isinstance(model, ScoreModel):
        return bool(heldout.items) and heldout.kind == ("rankings" if model.label is None else "flags")
    return bool(heldout.items) and heldout.kind != "flags"


def evaluate(
    model: LanguageModel | ScoreModel,
    tokenizer: Tokenizer,
    heldout: Heldout,
    *,
    generate: bool = True,
    max_items: int | None = 200,
    max_document_tokens: int | None = MAX_DOCUMENT_TOKENS,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    batch_tokens: int = 8192,
    bf16: bool = False,
    scorers: Mapping[str, Scorer] | None = None,
    training_answers: Collection[str] | None = None,
    reference: LanguageModel | None = None,
    floors: bool = True,
    progress: str | None = None,
) -> Scores:
    """The model's scores on the set.

    documents: bits_per_byte (ratio over documents), perplexity. responses: nll per token and bits_per_byte of what the
    assistant says; with ``generate`` also rouge1, rouge2, rougeL, chrf, sentence_bleu, bleu, exact_match, ended, length
    of a generated last turn, verbatim if there are ``training_answers``. rankings: share of strict pairs that a reward
    model orders as the annotator did (accuracy; by a language model's mean log-probability: likelihood_accuracy, by the
    reward that it stands for beside a ``reference``: implicit_accuracy), nll, brier, ece. prompts: sampled answers with
    ended, length and a score/NAME by each of ``scorers``. labels: the area under the curve of good against bad
    (``labels.on_labels``). flags: what a classifier of flags gets right (``flags.on_flags``).

    Args:
        max_items: at most so many items, the same ones for every model and seed.
        temperature: of the answers; None: 0 (greedy) for responses, 0.7 for prompts.
        batch_size, batch_tokens: answers generated at once; tokens scored at once.
        bf16: compute in bfloat16.
        training_answers: what the model was trained to say, or how often each; also gives the most frequent target.
        reference: what the language model was before it learned from preferences, for rankings, labels, and how far its
            answers to prompts have moved (kl/answer).
        floors: measure what needs no model too.
        progress: a progress bar's name for the generation.

    Raises UserError for a set that the model cannot take.
    """
    numbers = selection(len(heldout.items), max_items)
    items = [heldout.items[n] for n in numbers]
    ask = answers.Asking(max_new_tokens, temperature, seed, batch_size, torch.bfloat16 if bf16 else None, progress)
    with _evaluating(model, bf16), _naming_the_row(tokenizer, items):
        if heldout.kind == "flags" and isinstance(model, ScoreModel) and model.label is not None:
            return flags.on_flags(model, tokenizer, heldout, numbers, batch_tokens, floors)
        if heldout.kind == "flags":
            raise UserError(f"{heldout.name}: a set of flags needs a flag classifier (stage=flag_classification)")
        if heldout.kind == "rankings":
            return rankings.on_rankings(model, tokenizer, heldout, numbers, batch_tokens, reference, floors)
        if not isinstance(model, LanguageModel):
            raise UserError(f"{heldout.name}: a set of {heldout.kind} needs a language model, this is a reward model")
        if heldout.kind == "labels":
            return labels.on_labels(model, tokenizer, heldout, numbers, batch_tokens, reference)
        if heldout.kind == "documents":
            return _documents(model, tokenizer, heldout, numbers, items, max_document_tokens, batch_tokens)
        if heldout.kind == "prompts":
            return answers.on_prompts(model, tokenizer, heldout, numbers, ask, scorers or {}, reference)
        found = _responses(model, tokenizer, heldout, numbers, items, batch_tokens)
        if not generate:
            return found
        return answers.on_responses(model, tokenizer, heldout, numbers, ask, found, training_answers, floors)


@contextmanager
def _naming_the_row(tokenizer: Tokenizer, items: Sequence[Any]) -> Iterator[None]:
    """An error of the chat template gets the file and line of the item that it refuses."""
    try:
        yield
    except UserError:
        for item in items:
            messages = getattr(item, "messages", None) or getattr(item, "prompt", None)
            try:
                if messages and messages[-1].role == "assistant":
                    tokenizer.encode_chat(messages)
                elif messages:
                    tokenizer.encode_prompt(messages)
            except UserError as error:
                raise UserError(f"{item.source}: {error}") from None
        raise


def _documents(
    model: Any,
    tokenizer: Tokenizer,
    heldout: Heldout,
    numbers: list[int],
    items: list[Any],
    max_tokens: int | None,
    batch_tokens: int,
) -> Scores:
    context = model.config.max_positions
    windows = [likelihood.document_rows(tokenizer, item, context, max_tokens) for item in items]
    sums = iter(likelihood.likelihoods(model, tokenizer, [row for rows in windows for row in rows], batch_tokens))
    rows = [[next(sums) for _ in some] for some in windows]
    nats = [sum(x.nats for x in some) for some in rows]
    bits = measured(numbers, np.divide(nats, math.log(2)), [sum(x.size for x in some) for some in rows])
    per_token = ratio(nats, [sum(x.tokens for x in some) for some in rows])
    perplexity = math.exp(min(per_token.mean, 700)) if math.isfinite(per_token.mean) else math.nan
    whole = {"perplexity": Estimate(perplexity, perplexity * per_token.se, per_token.n)}
    return Scores(heldout.name, heldout.kind, {"bits_per_byte": bits}, clusters_of(heldout, numbers), whole)


def _responses(
    model: Any, tokenizer: Tokenizer, heldout: Heldout, numbers: list[int], items: list[Any], batch_tokens: int
) -> Scores:
    rows = [likelihood.response_row(tokenizer, item, model.config.max_positions) for item in items]
    kept = [n for n, row in zip(numbers, rows, strict=True) if row is not None]
    sums = likelihood.likelihoods(model, tokenizer, [row for row in rows if row is not None], batch_tokens)
    nats = [x.nats for x in sums]
    measures = {
        "nll": measured(kept, nats, [x.tokens for x in sums]),
        "bits_per_byte": measured(kept, np.divide(nats, math.log(2)), [x.size for x in sums]),
    }
    return Scores(heldout.name, heldout.kind, measures, clusters_of(heldout, numbers))


def selection(count: int, max_items: int | None) -> list[int]:
    """The numbers of the items that are measured: the same ones for every model and seed."""
    if max_items is None or count <= max_items:
        return list(range(count))
    return sorted(random.Random(0).sample(range(count), max_items))


@contextmanager
def _evaluating(model: nn.Module, bf16: bool) -> Iterator[None]:
    """No dropout, no gradients, and bfloat16 where wanted; the model's mode is put back."""
    training = model.training
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            yield
    finally:
        model.train(training)
