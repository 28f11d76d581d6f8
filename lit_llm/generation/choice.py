"""One token out of each row of logits: greedy or at random, from all of the vocabulary or its likeliest part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_llm.errors import UserError


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
        logits = logits.float()
        if self.temperature not in (0.0, 1.0):
            logits = logits / self.temperature
        if self.temperature and (self.top_k or self.top_p):
            logits = self._truncate(logits)
        return torch.log_softmax(logits, dim=-1)

    def pick(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Token (B,) int64 and its log-probability (B,) float32, from logits (B, V) and one number in [0, 1) a row.

        The number is looked up in the cumulative distribution, so that a row's token depends on nothing but its own
        logits and its own number: not on which rows share the batch.
        """
        logps = self.logps(logits)
        if self.temperature == 0:
            tokens = logps.argmax(dim=-1)
        else:
            cumulative = logps.exp().cumsum(dim=-1)
            total = cumulative[:, -1:]
            # Below the total, even after rounding: then the place found is always that of a token that can occur.
            target = torch.minimum(uniforms[:, None].to(total.dtype) * total, torch.nextafter(total, total * 0))
            tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
            tokens = tokens.clamp(max=logits.shape[-1] - 1)  # logits that are no numbers: the caller reports them
        return tokens, logps.gather(-1, tokens[:, None]).squeeze(-1)

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
