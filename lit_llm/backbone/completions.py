"""Completions as branches of the prompt that they share: prompt and completions are each read once.

A row holds prompts, each followed by its completions one after the other. A completion sees its prompt and itself, and
its positions go on from its prompt's end, so that it is computed as if it stood behind the prompt alone. Rankings of
600 prompts by three annotators with five completions each (40 tokens a prompt, 22 a completion): 1,639 thousand tokens
as right-padded batches of 16 rankings, 266 thousand as branches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_llm.backbone.attention import SHORT_ROW
from lit_llm.backbone.models import LanguageModel
from lit_llm.objectives.language import token_entropy, token_logps
from lit_llm.records import HostRows, PackedCompletions, TokenRow
from lit_llm.runtime import processor

KEY_BYTES = 16
ROW_TOKENS, NARROW_ROW_TOKENS = 256, SHORT_ROW
"""A prompt with its completions is this long unless a single one of them is longer: attention grows with that length,
and a prompt whose completions do not fit is read again with the rest of them. On a CPU all stand in one row, without
padding: 24 comparisons of 205 tokens, eight a batch, take 4,943 places; rows of 256 tokens and more, each filled before
the next, would have 7,175. With AVX2 alone, where products take longest, the second of the two: with 256, 512 and 1,024
those comparisons take 9.7, 8.6 and 9.3 s in DPO, and a step of GRPO (8 prompts, 8 answers of 48) 19.6, 14.9 and 12.5 s.
Elsewhere, where a long row's mask has to be compiled, rows are half of ``SHORT_ROW``."""


class _Tree(NamedTuple):
    """A prompt with completions that fit behind it in one row: numbers of input rows."""

    prompt: int
    completions: list[int]
    length: int


def pack(rows: Sequence[TokenRow], device: str = "cpu", row_tokens: int | None = None) -> PackedCompletions:
    """N prompts with a completion each, on the CPU, laid out as a ``device`` of this type ("cuda") reads them best.

    Prompts are told by their tokens; a completion that a prompt has twice is read once. Where a prompt is empty,
    nothing foresees its completions' first tokens, and their ``before`` means nothing. No completion may be empty.
    Where no prompt has a second completion, rows are packed documents like any others.
    """
    of_prompt: dict[bytes, dict[bytes, int]] = {}
    completion = np.empty(len(rows), dtype=np.int64)
    kept: list[int] = []
    for row, (prompt, answer) in enumerate(rows):
        known = of_prompt.setdefault(prompt.tobytes(), {})
        number = known.setdefault(answer.tobytes(), len(kept))
        if number == len(kept):
            kept.append(row)
        completion[row] = number
    if row_tokens is None:
        row_tokens = NARROW_ROW_TOKENS if device == "cpu" and processor.has_narrow_vectors() else ROW_TOKENS
    width = max(row_tokens, max(len(prompt) + len(answer) for prompt, answer in rows))
    trees = [tree for known in of_prompt.values() for tree in _trees([kept[n] for n in known.values()], rows, width)]
    total = sum(tree.length for tree in trees)
    one_row = device == "cpu" and width <= SHORT_ROW  # there attention reads each tree for itself
    shares = _shared_out(trees, 1 if one_row else max(1, total // max(width, SHORT_ROW // 2)))
    return _laid_out(rows, shares, kept, completion)


def token_rows(input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> list[TokenRow]:
    """What ``pack`` takes, of right-padded rows (N, T), each a prompt of ``prompt_lengths`` (N,) and a completion up to
    ``lengths`` (N,). One copy to the host each.
    """
    ids = input_ids.cpu().numpy()
    bounds = zip(ids, prompt_lengths.tolist(), lengths.tolist(), strict=True)
    return [(row[:prompt], row[prompt:end]) for row, prompt, end in bounds]


def completion_logps(model: LanguageModel, completions: PackedCompletions, temperature: float = 1.0) -> Tensor:
    """Log-probability (M,) float32 of each completion's tokens, the end token among them, at this temperature."""
    hidden = model.before_completions(completions)
    return token_logps(hidden, model.output_weight, completions.targets, temperature, softcap=model.logit_softcap)


def logps_and_entropy(
    model: LanguageModel, completions: PackedCompletions, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``completion_logps``, and beside each token the entropy (M,) of what it was chosen from, without a gradient."""
    hidden = model.before_completions(completions)
    weight, softcap = model.output_weight, model.logit_softcap
    logps = token_logps(hidden, weight, completions.targets, temperature, softcap=softcap)
    return logps, token_entropy(hidden, weight, temperature, softcap)


def _keys(rows: Sequence[TokenRow]) -> NDArray[np.uint8]:
    texts = (prompt.tobytes() + answer.tobytes() + len(prompt).to_bytes(4, "little") for prompt, answer in rows)
    digests = b"".join(hashlib.blake2b(text, digest_size=KEY_BYTES).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _size(row: TokenRow) -> int:
    return len(row[0]) + len(row[1])


def _trees(numbers: list[int], rows: Sequence[TokenRow], width: int) -> list[_Tree]:
    """The completions of one prompt, by their rows' ``numbers``, in as many trees as it takes."""
    prompt, trees = len(rows[numbers[0]][0]), list[_Tree]()
    for number in sorted(numbers, key=lambda number: -_size(rows[number])):
        size = len(rows[number][1])
        if not trees or trees[-1].length + size > width:
            trees.append(_Tree(number, [], prompt))
        trees[-1] = _Tree(trees[-1].prompt, [*trees[-1].completions, number], trees[-1].length + size)
    return trees


def _shared_out(trees: list[_Tree], rows: int) -> list[list[_Tree]]:
    """Trees in so many rows, the longest first, each into the row that has least: they end up about equally long."""
    shares: list[list[_Tree]] = [[] for _ in range(rows)]
    filled = [0] * rows
    for tree in sorted(trees, key=lambda tree: -tree.length):
        least = min(range(rows), key=filled.__getitem__)
        shares[least].append(tree)
        filled[least] += tree.length
    return shares


def _laid_out(
    rows: Sequence[TokenRow], shares: list[list[_Tree]], kept: list[int], completion: NDArray[np.int64]
) -> PackedCompletions:
    width = max(sum(tree.length for tree in share) for share in shares)
    tokens, positions, segments, branches = (np.zeros((len(shares), width), dtype=np.int64) for _ in range(4))
    number_of = {row: number for number, row in enumerate(kept)}
    last = np.empty(len(kept), dtype=np.int64)
    before: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(kept)
    for line, share in enumerate(shares):
        at = 0
        for segment, tree in enumerate(share):
            prompt = rows[tree.prompt][0]
            size = len(prompt)
            tokens[line, at : at + size] = prompt
            positions[line, at : at + size] = np.arange(size)
            segments[line, at : at + tree.length] = segment
            ending, at = line * width + at + size - 1, at + size
            for branch, source in enumerate(tree.completions, 1):
                answer = rows[source][1]
                here = slice(at, at + len(answer))
                tokens[line, here] = answer
                positions[line, here] = np.arange(size, size + len(answer))
                branches[line, here] = branch
                places = np.arange(line * width + here.start, line * width + here.stop)
                number = number_of[source]
                last[number], before[number], at = places[-1], np.concatenate([[ending], places[:-1]]), here.stop
        positions[line, at:] = np.arange(width - at)
        segments[line, at:] = len(share)
    answers = [rows[row][1] for row in kept]
    parts = {
        "input_ids": tokens,
        "positions": positions,
        "segments": segments,
        "completion": completion,
        "sizes": np.array([len(answer) for _, answer in rows], dtype=np.int64),
        "last": last,
        "owners": np.repeat(np.arange(len(answers)), [len(answer) for answer in answers]),
        "steps": np.concatenate([np.arange(len(answer)) for answer in answers]),
        "before": np.concatenate(before),
        "targets": np.concatenate(answers),
    }
    return PackedCompletions(
        host=HostRows(tuple(rows), _keys([rows[row] for row in kept])[completion], (tokens.min(), tokens.max())),
        branches=torch.from_numpy(branches) if branches.max() > 1 else None,
        **{name: torch.from_numpy(part) for name, part in parts.items()},
    )
