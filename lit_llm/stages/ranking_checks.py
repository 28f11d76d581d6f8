"""What a batch of ranked completions must be, checked before it is trained on."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from lit_llm.errors import UserError
from lit_llm.records import RankingBatch


def check_rankings(batch: RankingBatch, vocab_size: int, max_positions: int) -> None:
    """Raises UserError naming the row (completion) or group (prompt) of the batch and what would be right."""
    # Moved once, so that the checks do not each wait for the device.
    batch = RankingBatch(*(None if part is None else part.cpu() for part in batch))  # type: ignore[arg-type]
    _check_tokens(batch, vocab_size, max_positions)
    _check_ranks(batch)
    _check_prompts(batch)


def _check_tokens(batch: RankingBatch, vocab_size: int, max_positions: int) -> None:
    largest, longest = int(batch.input_ids.max()), int(batch.lengths.max())
    if largest >= vocab_size or int(batch.input_ids.min()) < 0:
        raise UserError(f"rankings: token {largest}; the model's vocabulary has {vocab_size}")
    if longest > max_positions:
        raise UserError(f"rankings: a completion ends at token {longest}; the model reads up to {max_positions}")
    empty = _first(batch.lengths <= batch.prompt_lengths)
    if empty is not None:
        raise UserError(f"rankings: completion {empty} of the batch has no token; answer something or leave it out")
    headless = _first(batch.prompt_lengths < 1)
    if headless is not None:
        raise UserError(f"rankings: the prompt of completion {headless} of the batch has no token")


def _check_ranks(batch: RankingBatch) -> None:
    sizes = torch.bincount(batch.groups, minlength=len(batch.weights))
    small = _first(sizes < 2)
    if small is not None:
        raise UserError(f"rankings: prompt {small} of the batch has {int(sizes[small])} completion; give 2 or more")
    outside = _first((batch.ranks < 1) | (batch.ranks > sizes[batch.groups]))
    if outside is not None:
        rank, size = int(batch.ranks[outside]), int(sizes[batch.groups[outside]])
        raise UserError(f"rankings: completion {outside} of the batch has rank {rank}; must be 1 to {size}")
    if batch.attacked is not None and len(batch.attacked) != len(batch.ranks):
        raise UserError(f"rankings: {len(batch.attacked)} marks of attacks, {len(batch.ranks)} completions; one each")
    for name, values in (("weight", batch.weights), ("margin", batch.margins)):
        _check_values(name, values, len(sizes))
    if batch.annotators is not None and len(batch.annotators) != len(sizes):
        raise UserError(f"rankings: {len(batch.annotators)} annotators for {len(sizes)} prompts of the batch; one each")


def _check_values(name: str, values: Tensor | None, prompts: int) -> None:
    """One finite number of 0 or more for each prompt, where they are given at all."""
    if values is None:
        return
    if len(values) != prompts:
        raise UserError(f"rankings: {len(values)} {name}s for {prompts} prompts of the batch; one each")
    bad = _first(~(values >= 0) | ~values.isfinite())
    if bad is not None:
        raise UserError(f"rankings: prompt {bad} of the batch has {name} {float(values[bad])}; must be 0 or more")


def _check_prompts(batch: RankingBatch) -> None:
    same = torch.tensor([a == b for a, b in pairwise(batch.groups.tolist())], dtype=torch.bool)
    inside = torch.arange(batch.input_ids.shape[1]) < batch.prompt_lengths[1:, None]
    differ = ((batch.input_ids[1:] != batch.input_ids[:-1]) & inside).any(1)
    differ |= batch.prompt_lengths[1:] != batch.prompt_lengths[:-1]
    mixed = _first(differ & same)
    if mixed is not None:
        raise UserError(f"rankings: completions {mixed} and {mixed + 1} of the batch are compared on two prompts")
    seen: set[tuple[int, bytes]] = set()
    for number, key in enumerate(row_keys(batch)):
        if (group := int(batch.groups[number]), key) in seen:
            raise UserError(f"rankings: completion {number} of the batch is given twice for one prompt")
        seen.add((group, key))


def row_keys(batch: RankingBatch) -> list[bytes]:
    """What identifies a prompt with its completion: its tokens, and where the prompt ends."""
    rows = zip(batch.input_ids.cpu().numpy(), batch.lengths.tolist(), batch.prompt_lengths.tolist(), strict=True)
    return [row[:length].tobytes() + prompt.to_bytes(4, "little") for row, length, prompt in rows]


def _first(wrong: Tensor) -> int | None:
    """The first true place."""
    places = wrong.nonzero()
    return int(places[0]) if len(places) else None
