"""The rows of a running batch: a finished completion gives its row, and its part of the cache, to the next prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_llm.errors import UserError
from lit_llm.generation.choice import NOT_FINITE, Choice
from lit_llm.generation.transformers_decoder import AnyDecoder
from lit_llm.records import Rollout

PREFILL_TOKENS = {"cpu": 2048}
"""At once: bounds the memory that reading long prompts takes. Few on a CPU, whose caches are small; prompts of like
lengths are then read together."""

ADMIT, SHRINK = 1 / 8, 3 / 4
"""The share of idle rows from which on new prompts take them, and the share of live ones from which on the rest is left
out once no prompt waits. 64 prompts on 32 rows, answers of 16 to 128 tokens: 1.07 rows are computed for each token that
is wanted; 1.19 with 1/4 and 1/2, 1.01 with 1/32 and 9/10, which reads and copies too often to be faster."""

WAIT_EVERY = {"cpu": 1}
"""Steps after which is asked how many rows are still at work. On a GPU, which runs ahead of the host, every eighth."""


class BatchScheduler:
    """N prompts on at most ``batch_size`` rows.

    A row decodes its prompt's last token first, so that prompts are read (all but that token) without their logits and
    every token is chosen in one place. Nothing here loops over rows; steps wait for the device as ``WAIT_EVERY`` says.

    Args:
        decoder: of as many positions as a prompt and its answer have together.
        rows, lengths: prompts (N, T) right-padded, (N,). Equal neighbours are read once.
        limits: (N,) most new tokens of each.
        uniforms: (N, M) numbers in [0, 1), one for each token that may be chosen.
        stopped: asked after every step with the tokens of the B rows so far (B, M) and how many each has (B,); the rows
            for which it says yes (B,) end there, without an end token.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        choice: Choice,
        rows: Tensor,
        lengths: Tensor,
        limits: Tensor,
        uniforms: Tensor,
        end_ids: Sequence[int],
        batch_size: int,
        stopped: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.stopped = stopped
        self.decoder, self.choice = decoder, choice
        self.rows, self.lengths = rows, lengths
        count, most = uniforms.shape
        device = rows.device
        # Row N of each table takes what idle rows write.
        self.limits = torch.cat([limits, limits.new_full((1,), most)])
        self.uniforms = torch.cat([uniforms, uniforms.new_zeros(1, most)])
        self.tokens = torch.zeros(count + 1, most, dtype=torch.int64, device=device)
        self.logps = torch.zeros(count + 1, most, dtype=torch.float32, device=device)
        self.counts = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self.finished = torch.zeros(count + 1, dtype=torch.bool, device=device)
        self.is_end = torch.zeros(decoder.config.vocab_size, dtype=torch.bool, device=device)
        self.is_end[[i for i in end_ids if i < decoder.config.vocab_size]] = True
        self.queue = lengths.argsort(descending=True, stable=True)  # longest first: rows of a batch are alike
        self._open(min(batch_size, count))

    def _open(self, size: int) -> None:
        device = self.rows.device
        self.cache = self.decoder.cache(size)
        self.owner = torch.full((size,), len(self.rows), device=device)  # which prompt a row works on; N: idle
        self.place = torch.zeros(size, dtype=torch.int64, device=device)  # tokens chosen so far
        self.current = torch.zeros(size, dtype=torch.int64, device=device)  # the token to read next
        self.live = self.steps = 0

    def step(self) -> int | None:
        """One more token for every live row. Returns how many completions ended with it; None when all are done."""
        idle, ended = len(self.owner) - self.live, 0
        if len(self.queue) and (self.live == 0 or idle >= max(1, int(len(self.owner) * ADMIT))):
            self._admit(idle)
        elif self.live == 0:
            return None
        elif self.live <= int(len(self.owner) * SHRINK):
            ended = self._shrink()
            if self.live == 0:
                return ended
        self._decode()
        self.steps += 1
        if self.steps % WAIT_EVERY.get(self.rows.device.type, 8):
            return ended
        return ended + self._count(int((self.owner != len(self.rows)).sum()))

    def _count(self, live: int) -> int:
        """So many rows are live now. Returns how many have ended since it was known last."""
        ended, self.live = self.live - live, live
        return ended

    def _decode(self) -> None:
        logits = self.decoder.step(self.current, self.cache)
        place = self.place.clamp(max=self.tokens.shape[1] - 1)  # idle rows count on
        tokens, logps = self.choice.pick(logits, self.uniforms[self.owner, place])
        self.tokens[self.owner, place] = tokens
        self.logps[self.owner, place] = logps
        self.place = place + 1
        ended = self.is_end[tokens]
        self.counts[self.owner] = self.place
        self.finished[self.owner] = ended
        idle = len(self.rows)
        if self.stopped is not None:
            written = self.place.where(self.owner != idle, 0)
            ended = ended | self.stopped(self.tokens[self.owner], written)
        alive = ~ended & (self.place < self.limits[self.owner]) & (self.owner != idle)
        self.owner = torch.where(alive, self.owner, idle)
        self.cache.forget(alive)
        self.current = tokens

    def _admit(self, idle: int) -> None:
        """The next prompts of the queue take idle rows."""
        prompts, self.queue = self.queue[:idle], self.queue[idle:]
        alive = self.owner != len(self.rows)
        places = (~alive).nonzero().squeeze(-1)[: len(prompts)]
        self._read(prompts, places)
        self.owner[places] = prompts
        self.place[places] = 0
        self.current[places] = self.rows[prompts, self.lengths[prompts] - 1]
        self.live += len(prompts)

    def _read(self, prompts: Tensor, into: Tensor) -> None:
        """Fills the cache rows ``into`` with all but the last token of these prompts."""
        lengths = self.lengths[prompts] - 1
        unique, copies = _merge_neighbours(self.rows[prompts], lengths)
        size = max(1, PREFILL_TOKENS.get(self.rows.device.type, 16_384) // (int(lengths.max()) + 1))
        for start in range(0, len(unique), size):
            some = unique[start : start + size]
            longest = int(lengths[some].max())
            if longest == 0:
                return  # their rows are empty already
            held = (copies >= start) & (copies < start + size)
            ids = self.rows[prompts[some], :longest]
            self.decoder.read(ids, lengths[some], self.cache, into[held], copies[held] - start)

    def _shrink(self) -> int:
        """Drops the idle rows, so that a step takes less time. Returns how many completions had ended unnoticed."""
        rows = (self.owner != len(self.rows)).nonzero().squeeze(-1)
        if len(rows):
            self.cache.keep(rows)
            self.owner, self.place, self.current = self.owner[rows], self.place[rows], self.current[rows]
        return self._count(len(rows))

    def rollout(self) -> Rollout:
        """What was chosen, put behind the prompts."""
        if not bool(torch.isfinite(self.logps[:-1]).all()):
            raise UserError(NOT_FINITE)
        total = self.lengths + self.counts[:-1]
        width = int(total.max()) if len(total) else 0
        columns = torch.arange(width, device=self.rows.device)
        prompt, answer = columns < self.lengths[:, None], columns < total[:, None]
        answer = answer & ~prompt
        written = torch.arange(self.tokens.shape[1], device=self.rows.device) < self.counts[:-1, None]
        ids = torch.zeros(len(total), width, dtype=torch.int64, device=self.rows.device)
        given = torch.arange(self.rows.shape[1], device=self.rows.device) < self.lengths[:, None]
        ids[prompt] = self.rows[given]
        ids[answer] = self.tokens[:-1][written]
        logps = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
        logps[answer] = self.logps[:-1][written]
        return Rollout(ids, self.lengths, total, self.finished[:-1], logps[:, 1:], answer[:, 1:])


def _merge_neighbours(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (U,) of the first of each run of equal prompts, and for each prompt (N,) the number of its run."""
    inside = torch.arange(rows.shape[1], device=rows.device) <= lengths[:, None]
    masked = torch.where(inside, rows, -1)
    new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    new[1:] = (masked[1:] != masked[:-1]).any(dim=1)
    return new.nonzero().squeeze(-1), new.cumsum(0) - 1
