"""Completions as branches of the prompt that they share: prompt and completions are each read once.

A row holds prompts, each followed by its completions one after the other. A completion sees its prompt and itself, and
its positions go on from its prompt's end, so that it is computed as if it stood behind the prompt alone. Rankings of
600 prompts by three annotators with five completions each (40 tokens a prompt, 22 a completion): 1,639 thousand tokens
as right-padded batches of 16 rankings, 266 thousand as branches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_llm.backbone.attention import SHORT_ROW
from lit_llm.runtime import processor

ROW_TOKENS, NARROW_ROW_TOKENS = 256, SHORT_ROW
"""A prompt with its completions is this long unless a single one of them is longer: attention grows with that length,
and a prompt whose completions do not fit is read again with the rest of them. On a CPU all stand in one row, without
padding: 24 comparisons of 205 tokens, eight a batch, take 4,943 places; rows of 256 tokens and more, each filled before
the next, would have 7,175. With AVX2 alone, where products take longest, the second of the two: with 256, 512 and 1,024
those comparisons take 9.7, 8.6 and 9.3 s in DPO, and a step of GRPO (8 prompts, 8 answers of 48) 19.6, 14.9 and 12.5 s.
Elsewhere, where a long row's mask has to be compiled, rows are half of ``SHORT_ROW``."""


class Branches(NamedTuple):
    """N completions in R rows of T tokens; U of them are unlike each other, with M tokens in all.

    Places count through all rows, from 0 to R T - 1: they index ``hidden.flatten(0, 1)``.
    """

    input_ids: Tensor  # (R, T) int64
    positions: Tensor  # (R, T) int64: of each token behind its prompt's first one
    segments: Tensor  # (R, T) int64: number of the prompt within the row; padding is a segment of its own
    branches: Tensor | None  # (R, T) int64: 0 in a prompt, else which of its completions; None: each has but one
    completion: Tensor  # (N,) int64: which of the U completions each of the N is
    last: Tensor  # (U,) int64: place of each completion's last token
    owners: Tensor  # (M,) int64: the completion of each completion token, 0 .. U-1, ascending
    before: Tensor  # (M,) int64: the place that foresees it
    targets: Tensor  # (M,) int64: the token itself

    def to(self, device: torch.device) -> Branches:
        return Branches(*(None if part is None else part.to(device, non_blocking=True) for part in self))  # type: ignore[arg-type]

    def sums(self, values: Tensor) -> Tensor:
        """Values of the completions' tokens (M,) summed over each of the N completions: (N,)."""
        return values.new_zeros(len(self.last)).index_add(0, self.owners, values)[self.completion]

    def matrix(self, values: Tensor, width: int) -> Tensor:
        """The same as rows (N, width) from each completion's first token on, 0 behind its last."""
        sizes = torch.bincount(self.owners, minlength=len(self.last))
        inside = torch.arange(width, device=values.device) < sizes[:, None]
        return values.new_zeros(inside.shape).masked_scatter(inside, values)[self.completion]


class _Tree(NamedTuple):
    """A prompt with completions that fit behind it in one row: numbers of input rows."""

    prompt: int
    completions: list[int]
    length: int


def branches_of(
    input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor, row_tokens: int | None = None, pad_id: int = 0
) -> Branches:
    """Right-padded rows (N, T'), each a prompt of ``prompt_lengths`` (N,) and a completion up to ``lengths`` (N,), as
    branches on the rows' device. Prompts are told by their tokens; a completion that a prompt has twice is read once.
    Where a prompt is empty, nothing foresees its completions' first tokens, and their ``before`` means nothing. No
    completion may be empty. Where no prompt has a second completion, rows are packed documents like any others.
    """
    ids, prompts, ends = input_ids.cpu().numpy(), prompt_lengths.tolist(), lengths.tolist()
    of_prompt: dict[bytes, dict[bytes, int]] = {}
    completion = np.empty(len(ids), dtype=np.int64)
    kept: list[int] = []
    for row, (tokens, prompt, end) in enumerate(zip(ids, prompts, ends, strict=True)):
        known = of_prompt.setdefault(tokens[:prompt].tobytes(), {})
        number = known.setdefault(tokens[prompt:end].tobytes(), len(kept))
        if number == len(kept):
            kept.append(row)
        completion[row] = number
    if row_tokens is None:
        row_tokens = NARROW_ROW_TOKENS if input_ids.is_cpu and processor.has_narrow_vectors() else ROW_TOKENS
    width = max(row_tokens, max(ends))
    trees = [
        tree for known in of_prompt.values() for tree in _trees([kept[n] for n in known.values()], prompts, ends, width)
    ]
    total = sum(tree.length for tree in trees)
    one_row = input_ids.is_cpu and width <= SHORT_ROW  # there attention reads each tree for itself
    rows = 1 if one_row else max(1, total // max(width, SHORT_ROW // 2))
    number_of = {row: number for number, row in enumerate(kept)}
    return _laid_out(ids, prompts, ends, _shared_out(trees, rows), number_of, completion, pad_id).to(input_ids.device)


def _trees(rows: list[int], prompts: list[int], ends: list[int], width: int) -> list[_Tree]:
    """The completions ``rows`` of one prompt in as many trees as it takes."""
    prompt, trees = prompts[rows[0]], list[_Tree]()
    for row in sorted(rows, key=lambda row: -ends[row]):
        size = ends[row] - prompt
        if not trees or trees[-1].length + size > width:
            trees.append(_Tree(row, [], prompt))
        trees[-1] = _Tree(trees[-1].prompt, [*trees[-1].completions, row], trees[-1].length + size)
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
    ids: NDArray[np.int64],
    prompts: list[int],
    ends: list[int],
    rows: list[list[_Tree]],
    number_of: dict[int, int],
    completion: NDArray[np.int64],
    pad_id: int,
) -> Branches:
    width = max(sum(tree.length for tree in row) for row in rows)
    tokens = np.full((len(rows), width), pad_id, dtype=np.int64)
    positions, segments, branches = (np.zeros_like(tokens) for _ in range(3))
    last = np.empty(len(number_of), dtype=np.int64)
    before: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(number_of)
    for line, row in enumerate(rows):
        at = 0
        for segment, tree in enumerate(row):
            size = prompts[tree.prompt]
            tokens[line, at : at + size] = ids[tree.prompt, :size]
            positions[line, at : at + size] = np.arange(size)
            segments[line, at : at + tree.length] = segment
            ending, at = line * width + at + size - 1, at + size
            for branch, source in enumerate(tree.completions, 1):
                here = slice(at, at + ends[source] - size)
                tokens[line, here] = ids[source, size : ends[source]]
                positions[line, here] = np.arange(size, ends[source])
                branches[line, here] = branch
                places = np.arange(line * width + here.start, line * width + here.stop)
                number = number_of[source]
                last[number], before[number], at = places[-1], np.concatenate([[ending], places[:-1]]), here.stop
        positions[line, at:] = np.arange(width - at)
        segments[line, at:] = len(row)
    owners = np.repeat(np.arange(len(before)), [len(places) for places in before])
    kept = sorted(number_of, key=number_of.__getitem__)
    targets = np.concatenate([ids[row, prompts[row] : ends[row]] for row in kept])
    several = branches if branches.max() > 1 else None
    parts = (tokens, positions, segments, several, completion, last, owners, np.concatenate(before), targets)
    return Branches(*(None if part is None else torch.from_numpy(part) for part in parts))  # type: ignore[arg-type]
