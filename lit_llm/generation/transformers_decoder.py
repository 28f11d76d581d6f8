"""A model of transformers as generation runs it: with that package's cache of keys and values where the model heeds the
mask of one, else every row read anew for each token, which is slow and right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.packed_documents import in_rows
from lit_llm.backbone.transformers_network import TransformersNetwork
from lit_llm.backbone.transformers_probe import cached
from lit_llm.generation.decoder import Decoder, PromptReader

log = logging.getLogger("lit_llm")

TRIM = 64  # columns that no row needs any more, before the cache is copied without them

_told: set[str] = set()  # families that were warned of


class TransformersDecoder(PromptReader):
    """What ``Decoder`` is for the project's own models, with the same arguments where they have a meaning here."""

    def __init__(
        self, model: LanguageModel, dtype: torch.dtype | None = None, positions: int | None = None, rows: int = 1
    ) -> None:
        del rows  # weights are not laid out anew
        weight = model.lm_head.weight
        self.model, self.config, self.device = model, model.config, weight.device
        self.network: TransformersNetwork = model.backbone
        self.dtype = dtype or weight.dtype
        self.positions = positions or model.config.max_positions
        self._casts = self.dtype != weight.dtype

    def cache(self, rows: int) -> Any:
        """A ``RowCache``."""
        kind = KeptStates if self.network.caches else KeptTokens
        if not self.network.caches and self.config.family not in _told:
            _told.add(self.config.family)
            log.warning(
                "WARNING: of a %s nothing can be kept while it answers: each new token reads its row anew, so that an "
                "answer takes by the square of its length; fewer tokens, such as evaluation.max_new_tokens=32, are "
                "much faster", self.config.family,
            )  # fmt: skip
        return kind(rows, self.positions, self.device)

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Appends a token (B,) to every row. Returns the logits of what follows, (B, V) float32 at least."""
        with self._as_in_use():
            hidden = cache.append(self.network, tokens)
            logits = self.model.logits(self.model._for_head(hidden))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def read(self, rows: Tensor, lengths: Tensor, cache: Any, into: Tensor, copies: Tensor) -> None:
        with self._as_in_use():
            cache.fill(self.network, rows, lengths, into, copies)

    @contextmanager
    def _as_in_use(self) -> Iterator[None]:
        """Without dropout, in the dtype of the products."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.autocast(self.device.type, self.dtype if self._casts else None, enabled=self._casts):
                yield
        finally:
            self.model.train(training)


class RowCache:
    """What is known of up to ``limit`` tokens in each of B rows; ``lengths`` (B,): how many each holds."""

    def __init__(self, rows: int, limit: int, device: torch.device) -> None:
        self.limit = limit
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def append(self, network: TransformersNetwork, tokens: Tensor) -> Tensor:
        """One token (B,) more in every row: its hidden states (B, D). A full row is done, and writes its last again."""
        raise NotImplementedError

    def fill(self, network: TransformersNetwork, rows: Tensor, lengths: Tensor, into: Tensor, copies: Tensor) -> None:
        """Row ``into[r]`` holds prompt ``copies[r]`` from here on, and nothing else."""
        raise NotImplementedError

    def forget(self, kept: Tensor) -> None:
        """Empties the rows that are not ``kept``, (B,) bool."""
        self.lengths = self.lengths * kept

    def keep(self, rows: Tensor) -> None:
        """Leaves these rows alone, in this order, (R,) int64; a row may be taken more than once."""
        self.lengths = self.lengths[rows]


class KeptTokens(RowCache):
    """The tokens alone; every row is read whole for each new one."""

    def __init__(self, rows: int, limit: int, device: torch.device) -> None:
        super().__init__(rows, limit, device)
        self.tokens = torch.zeros(rows, limit, dtype=torch.int64, device=device)

    def append(self, network: TransformersNetwork, tokens: Tensor) -> Tensor:
        newest = self.lengths.clamp_max(self.limit - 1)
        self.tokens.scatter_(1, newest[:, None], tokens[:, None])
        self.lengths = newest + 1
        width = int(self.lengths.max())
        places = [row * width + np.arange(length) for row, length in enumerate(self.lengths.tolist())]
        hidden = in_rows(network.run, self.tokens[:, :width], places, network.config.turns_by_length)
        return hidden[torch.arange(len(hidden), device=hidden.device), newest]

    def fill(self, network: TransformersNetwork, rows: Tensor, lengths: Tensor, into: Tensor, copies: Tensor) -> None:
        del network
        self.tokens[into, : rows.shape[1]] = rows[copies]
        self.lengths = self.lengths.index_copy(0, into, lengths[copies])

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.tokens = self.tokens[rows]


class KeptStates(RowCache):
    """Keys and values. Rows end at the same column, so that what a window spans is counted right; ``seen`` (B, S) is
    False for what pads a row on its left."""

    def __init__(self, rows: int, limit: int, device: torch.device) -> None:
        from transformers import DynamicCache

        super().__init__(rows, limit, device)
        self.past = DynamicCache()
        self.seen = torch.zeros(rows, 0, dtype=torch.bool, device=device)

    def append(self, network: TransformersNetwork, tokens: Tensor) -> Tensor:
        spare = self.seen.shape[1] - int(self.lengths.max())
        if spare >= TRIM or (spare and self.seen.shape[1] >= self.limit):  # some models have tables of columns
            self._change(lambda states: states[:, :, spare:])
            self.seen = self.seen[:, spare:]
        self.seen = F.pad(self.seen, (0, 1), value=True)
        self.lengths = self.lengths + 1
        return cached(network, tokens[:, None], self.seen.long(), self.past)[:, -1]

    def fill(self, network: TransformersNetwork, rows: Tensor, lengths: Tensor, into: Tensor, copies: Tensor) -> None:
        from transformers import DynamicCache

        width = rows.shape[1]
        columns = torch.arange(width, device=rows.device) - (width - lengths[:, None])
        seen, read = columns >= 0, DynamicCache()
        cached(network, rows.gather(1, columns.clamp_min(0)), seen.long(), read)
        held = self.seen.shape[1]
        if width > held:
            self._change(lambda states: F.pad(states, (0, 0, width - held, 0)))
            self.seen = F.pad(self.seen, (width - held, 0))
        mine: Any
        for number, layer in enumerate(read.layers):
            its: Any = layer
            # What gets no weight must still be a number.
            parts = [part.masked_fill(~seen[:, None, :, None], 0)[copies] for part in (its.keys, its.values)]
            if len(self.past.layers) <= number:
                empty = [part.new_zeros(len(self.lengths), *part.shape[1:]) for part in parts]
                self.past.update(empty[0], empty[1], number)
            mine = self.past.layers[number]
            for whole, part in ((mine.keys, parts[0]), (mine.values, parts[1])):
                whole[into] = F.pad(part, (0, 0, whole.shape[2] - width, 0))
        self.seen[into] = F.pad(seen[copies], (self.seen.shape[1] - width, 0))
        self.lengths = self.lengths.index_copy(0, into, lengths[copies])

    def forget(self, kept: Tensor) -> None:
        super().forget(kept)
        self.seen = self.seen & kept[:, None]

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.seen = self.seen[rows]
        self._change(lambda states: states[rows])

    def _change(self, how: Callable[[Tensor], Tensor]) -> None:
        for layer in self.past.layers:
            held: Any = layer
            held.keys, held.values = how(held.keys), how(held.values)


AnyDecoder = Decoder | TransformersDecoder


def decoder_for(
    model: LanguageModel,
    dtype: torch.dtype | None,
    cuda_graph: bool = False,
    positions: int | None = None,
    rows: int = 1,
    consume: bool = False,
) -> AnyDecoder:
    """What decodes ``model``; arguments as ``Decoder``. Steps of transformers' models are not recorded."""
    if isinstance(model.backbone, TransformersNetwork):
        return TransformersDecoder(model, dtype, positions, rows)
    return Decoder(model, dtype, cuda_graph, positions, rows, consume)
