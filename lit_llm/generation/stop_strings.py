"""Texts that end a completion wherever tokens cut them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_llm.text.tokenizer import Tokenizer


class StopStrings:
    """Tells which rows have just written one of ``strings``; ``generate(stopped=...)`` asks it at every step.

    Looks at the bytes of the last tokens alone: what ended earlier was told earlier. Each step waits for the device.
    """

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.strings = [text for text in strings if text]
        self._bytes = [text.encode() for text in self.strings]
        self._longest = max(map(len, self._bytes), default=0)

    def __call__(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Tokens (B, M) of which each row has ``counts`` (B,): (B,) bool."""
        if not self._bytes:
            return torch.zeros_like(counts, dtype=torch.bool)
        # A token stands for one byte at least, but for a control token, which no text goes across.
        width = min(int(counts.max()), self._longest)
        columns = (counts[:, None] - width + torch.arange(width, device=counts.device)).clamp(min=0)
        tails = tokens.gather(1, columns).tolist() if width else [[] for _ in counts]
        found = [
            self._has_one(row[-count:] if count else []) for row, count in zip(tails, counts.tolist(), strict=True)
        ]
        return torch.tensor(found, dtype=torch.bool, device=counts.device)

    def cut(self, text: str) -> str:
        """The text before the first of the strings."""
        for stop in self.strings:
            text = text.partition(stop)[0]
        return text

    def _has_one(self, tail: list[int]) -> bool:
        written = b"".join(self.tokenizer.token_bytes(token) for token in tail)
        return any(stop in written for stop in self._bytes)
