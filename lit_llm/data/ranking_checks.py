"""What ranked completions must be, checked where a batch is made of them: on the host, and once."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from lit_llm.data.completion_checks import first, refuse_numbers
from lit_llm.errors import UserError
from lit_llm.records import RankingBatch


def check_rankings(batch: RankingBatch, attacked: Tensor | None) -> None:
    """Raises UserError naming the completion or prompt of the batch and what would be right."""
    _check_ranks(batch, attacked)
    _check_prompts(batch)


def _check_ranks(batch: RankingBatch, attacked: Tensor | None) -> None:
    sizes = torch.bincount(batch.groups, minlength=len(batch.weights))
    small = first(sizes < 2)
    if small is not None:
        raise UserError(f"rankings: prompt {small} of the batch has {int(sizes[small])} completion; give 2 or more")
    outside = first((batch.ranks < 1) | (batch.ranks > sizes[batch.groups]))
    if outside is not None:
        rank, size = int(batch.ranks[outside]), int(sizes[batch.groups[outside]])
        raise UserError(f"rankings: completion {outside} of the batch has rank {rank}; must be 1 to {size}")
    if attacked is not None and len(attacked) != len(batch.ranks):
        raise UserError(f"rankings: {len(attacked)} marks of attacks, {len(batch.ranks)} completions; one each")
    for name, values in (("weight", batch.weights), ("margin", batch.margins), ("annotator", batch.annotators)):
        if values is not None and len(values) != len(sizes):
            raise UserError(f"rankings: {len(values)} {name}s for {len(sizes)} prompts of the batch; one each")
    refuse_numbers(batch.weights, "rankings: prompt", "weight")
    if batch.margins is not None:
        refuse_numbers(batch.margins, "rankings: prompt", "margin")


def _check_prompts(batch: RankingBatch) -> None:
    groups, rows = batch.groups.tolist(), batch.completions.rows
    for number, ((group, (prompt, _)), (other, (following, _))) in enumerate(pairwise(zip(groups, rows, strict=True))):
        if group == other and prompt.tobytes() != following.tobytes():
            raise UserError(f"rankings: completions {number} and {number + 1} of the batch are compared on two prompts")
    seen: set[tuple[int, int]] = set()
    for number, one in enumerate(zip(groups, batch.completions.completion.tolist(), strict=True)):
        if one in seen:
            raise UserError(f"rankings: completion {number} of the batch is given twice for one prompt")
        seen.add(one)
