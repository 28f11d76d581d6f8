"""One token out of each row of logits: greedy or at random, from all of the vocabulary or its likeliest part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_llm.errors import UserError

BLOCK = 64
"""Tokens whose probabilities are added up together: running sums over all of a vocabulary of 4,096 take 0.27 ms for 64
rows, sums of blocks 0.04, and running sums of those and of one block 0.01 (one core)."""

FEW = 256
"""Tokens that are added up without blocks, in fewer calls: 54 us for all of a choice, 32 rows of 65 tokens, against
155."""

NOT_FINITE = "the model gives logits that are not finite: its weights are damaged or training diverged"


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: only the k likeliest tokens (Fan et al. 2018).
        top_p: only the likeliest tokens that together reach this probability (nucleus, Holtzman et al. 2020).

    Raises UserError for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}: must be 0 (greedy) or above")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1")

    def logps(self, logits: Tensor) -> Tensor:
        """Log-probabilities (B, V) float32 of the distribution that is sampled from; greedy keeps temperature 1."""
        return torch.log_softmax(self._scaled(logits), dim=-1)

    def pick(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Token (B,) int64 and its log-probability (B,) float32, from logits (B, V) and one number in [0, 1) a row.

        The number is looked up in the cumulative distribution, so that a row's token depends on nothing but its own
        logits and its own number: not on which rows share the batch.
        """
        if self.temperature == 0:
            logps = self.logps(logits)
            tokens = logps.argmax(dim=-1)
            return tokens, logps.gather(-1, tokens[:, None]).squeeze(-1)
        probabilities = self._scaled(logits).softmax(dim=-1)
        tokens = _look_up(probabilities, uniforms.to(probabilities.dtype))
        return tokens, probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()

    def _scaled(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.temperature not in (0.0, 1.0):
            logits = logits / self.temperature
        return self._truncate(logits) if self.temperature and (self.top_k or self.top_p) else logits

    def _truncate(self, logits: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, places = logits.sort(dim=-1, descending=True)
            probabilities = ordered.softmax(dim=-1)
            before = probabilities.cumsum(dim=-1) - probabilities  # the token that crosses the line is kept
            dropped = torch.empty_like(before, dtype=torch.bool).scatter_(-1, places, before >= self.top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
        return logits


def _look_up(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Where a running sum of each row (B, V) passes its number's share (B,) of the row's total: (B,) int64.

    Beyond ``FEW`` the number is looked up among blocks first, then within its block.
    """
    rows, count = probabilities.shape
    if count <= FEW:
        return _place(probabilities, uniforms * probabilities.sum(dim=-1))[0]
    whole = count - count % BLOCK
    sums = probabilities[:, :whole].reshape(rows, whole // BLOCK, BLOCK).sum(dim=-1)
    if whole < count:
        sums = torch.cat([sums, probabilities[:, whole:].sum(dim=-1, keepdim=True)], dim=-1)
    block, before = _place(sums, uniforms * sums.sum(dim=-1))
    columns = block[:, None] * BLOCK + torch.arange(min(BLOCK, count), device=block.device)
    inside = probabilities.gather(-1, columns.clamp(max=count - 1)).masked_fill_(columns >= count, 0)
    return block * BLOCK + _place(inside, before)[0]


def _place(shares: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The first place of each row (B, N) whose running sum is above the target (B,), and what is left of it there.

    Rounding may have put the target below 0 or at the row's total, and sums that are added in parallel need not grow:
    the place is one whose share is above 0 all the same. Where shares are no numbers it is 0, for the caller to report.
    """
    sums = shares.cumsum(dim=-1).mul_(shares > 0)
    most = sums.amax(dim=-1, keepdim=True)
    targets = torch.minimum(targets[:, None], torch.nextafter(most, most * 0)).clamp_(min=0)
    places = (sums > targets).max(dim=-1, keepdim=True).indices  # the first of equals
    rest = targets - sums.gather(-1, places) + shares.gather(-1, places)
    return places.squeeze(-1), rest.squeeze(-1)
