"""How well a model foresees given texts, and which of several completions it prefers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.objectives.language import token_logps
from lit_llm.records import IGNORE, Comparison, Document, Example
from lit_llm.text.tokenizer import Tokenizer


class Scored(NamedTuple):
    """A row of ids and what is summed over it: labels[t] is the token that position t foresees, or IGNORE."""

    ids: list[int]
    labels: list[int]


class Likelihood(NamedTuple):
    """Sums over one text."""

    nats: float
    tokens: int
    size: int  # bytes that the foreseen tokens stand for


def document_rows(tokenizer: Tokenizer, document: Document, context: int, max_tokens: int | None) -> list[Scored]:
    """Windows over the text, each token foreseen once: the first of all from what documents begin behind."""
    ids = [*tokenizer.beginning, *tokenizer.encode(document.text)[:max_tokens]]
    ahead = [*[IGNORE] * (len(tokenizer.beginning) - 1), *ids[len(tokenizer.beginning) :]]
    starts = range(0, len(ahead), context)
    return [Scored(ids[:-1][s : s + context], ahead[s : s + context]) for s in starts]


def response_row(tokenizer: Tokenizer, example: Example, context: int) -> Scored | None:
    """The conversation, what the assistants say (end tokens too) to be foreseen; None if the context cuts it off."""
    ids, trained = tokenizer.encode_chat(example.messages)
    labels = [i if t else IGNORE for i, t in zip(ids[1:], trained[1:], strict=True)][:context]
    return Scored(ids[:-1][:context], labels) if any(label != IGNORE for label in labels) else None


def completion_row(prompt: list[int], completion: list[int]) -> Scored:
    """Prompt and completion with the completion to be foreseen."""
    return Scored((prompt + completion)[:-1], [IGNORE] * (len(prompt) - 1) + completion)


@torch.no_grad()
def likelihoods(
    model: LanguageModel, tokenizer: Tokenizer, rows: Sequence[Scored], batch_tokens: int = 8192
) -> list[Likelihood]:
    """The sums over each row, in the rows' order."""
    device, control = model.output_weight.device, set(tokenizer.control_tokens.values())
    nats = [0.0] * len(rows)
    for some in _batches([len(row.ids) for row in rows], batch_tokens):
        ids = _padded([rows[i].ids for i in some], 0, device)
        labels = _padded([rows[i].labels for i in some], IGNORE, device)
        every = token_logps(model(ids), model.output_weight, labels, softcap=model.logit_softcap)
        logps = every.sum(dim=1, dtype=torch.float64)
        for i, value in zip(some, logps.tolist(), strict=True):
            nats[i] = -value
    sums = []
    for row, value in zip(rows, nats, strict=True):
        foreseen = [label for label in row.labels if label != IGNORE]
        size = sum(len(tokenizer.token_bytes(label)) for label in foreseen if label not in control)
        sums.append(Likelihood(value, len(foreseen), size))
    return sums


@torch.no_grad()
def reward_scores(model: ScoreModel, rows: Sequence[list[int]], batch_tokens: int = 8192) -> list[float]:
    """The score of each row of ids (prompt and completion), not normalised: a margin is then a logit."""
    device, scores = model.score.weight.device, [0.0] * len(rows)
    for some in _batches([len(row) for row in rows], batch_tokens):
        ids = _padded([rows[i] for i in some], 0, device)
        lengths = torch.tensor([len(rows[i]) for i in some], device=device)
        raw = model(ids, lengths) * model.reward_std + model.reward_mean
        for i, value in zip(some, raw.tolist(), strict=True):
            scores[i] = value
    return scores


def completion_scores(
    model: LanguageModel | ScoreModel,
    tokenizer: Tokenizer,
    comparisons: Sequence[Comparison],
    batch_tokens: int,
    reference: LanguageModel | None = None,
) -> list[NDArray[np.float64] | None]:
    """What the model makes of each comparison's K completions, (K, 1): a reward model's score, a language model's mean
    log-probability per token; (K, 2) with a ``reference``, beside which it is a reward too: log p - log p_reference
    (Rafailov et al. 2023, eq. 5, less its factor beta). Each text is read once, however many annotators ranked it.
    None: beyond the context."""
    context, place = model.config.max_positions, dict[tuple[object, str], int]()
    encoded: list[tuple[list[int], list[int]]] = []
    for comparison in comparisons:
        prompt = tokenizer.encode_prompt(comparison.prompt)
        for text in comparison.completions:
            if (comparison.prompt, text) not in place:
                place[comparison.prompt, text] = len(encoded)
                encoded.append((prompt, tokenizer.encode_completion(text)))
    fits = [i for i, (prompt, completion) in enumerate(encoded) if len(prompt) + len(completion) <= context]
    if isinstance(model, ScoreModel):
        columns = [reward_scores(model, [encoded[i][0] + encoded[i][1] for i in fits], batch_tokens)]
    else:
        rows = [completion_row(*encoded[i]) for i in fits]
        sums = likelihoods(model, tokenizer, rows, batch_tokens)
        columns = [[-x.nats / x.tokens for x in sums]]
        if reference is not None:
            theirs = likelihoods(reference, tokenizer, rows, batch_tokens)
            columns.append([y.nats - x.nats for x, y in zip(sums, theirs, strict=True)])
    values = np.full((len(encoded), len(columns)), math.nan)
    values[fits] = np.transpose(columns)
    lists = [values[[place[c.prompt, text] for text in c.completions]] for c in comparisons]
    return [None if np.isnan(one).any() else one for one in lists]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of like length, padded together to at most ``batch_tokens`` (a longer row comes alone)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64, device=device)
