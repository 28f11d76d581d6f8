"""A transformer of the package transformers, called as the project's own ``Transformer`` is."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lit_llm.backbone.norm import compute_dtype
from lit_llm.backbone.packed_documents import documents, in_rows
from lit_llm.backbone.transformer import default_positions
from lit_llm.backbone.transformers_config import TransformersConfig, made
from lit_llm.backbone.transformers_probe import examine
from lit_llm.backbone.visibility import PackedRows
from lit_llm.errors import UserError


class TransformersNetwork(nn.Module):
    """Token ids in, hidden states out, as the head reads them.

    Packed rows are told apart by a mask (B, 1, T, T) and by positions that begin anew, where ``packs`` says that this
    model heeds both and no layer's window is shorter than the row; else every document is computed as a row of its own.
    ``caches`` says whether keys and values may be kept while generating. Both are found out by ``transformers_probe``.
    """

    packs = caches = _recomputes = False

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config
        whole = made(config)
        self.network: nn.Module = whole.base_model
        self._read_signature()
        if self.embed_tokens.weight.device.type != "meta":
            examine(whole, self)

    def _read_signature(self) -> None:
        self.takes = frozenset(inspect.signature(self.network.forward).parameters)

    @property
    def embed_tokens(self) -> Any:
        """The embedding, (V, D)."""
        return self.network.get_input_embeddings()  # type: ignore[operator]

    @property
    def gradient_checkpointing(self) -> bool:
        return self._recomputes

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on == self.gradient_checkpointing:
            return
        if not on:
            self._checkpointing("disable")()
            self._recomputes = False
            return
        if not getattr(self.network, "supports_gradient_checkpointing", False):
            raise UserError(f"trainer.gradient_checkpointing=true: {self.config.family} has none in transformers")
        self._checkpointing("enable")({"use_reentrant": False})
        self._recomputes = True

    def _checkpointing(self, what: str) -> Any:
        """Newer releases call it after activations."""
        newer = getattr(self.network, f"activation_checkpointing_{what}", None)
        return newer or getattr(self.network, f"gradient_checkpointing_{what}")

    def compile(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError("trainer.compile=true: models of backbone=transformers are not compiled; give false")

    @property
    def compiled(self) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D); arguments as ``Transformer.forward``. Positions count from 0 in each document."""
        if segments is None:
            return self.run(input_ids)
        longest, width = self.config.max_positions, input_ids.shape[1]
        if not (self.packs and width <= (self.config.window or width)):
            places = documents(segments, branches, longest)
            return in_rows(self.run, input_ids, places, same_length=self.config.turns_by_length)
        if positions is None:
            positions = default_positions(input_ids, segments)
        rows = PackedRows(positions.expand_as(input_ids), segments, branches)
        dtype = compute_dtype(self.embed_tokens.weight)
        # The least number, not -inf: some models add masks of their own to it.
        mask = torch.zeros(rows.sees(rows).shape, dtype=dtype, device=input_ids.device)
        mask = mask.masked_fill_(~rows.sees(rows), torch.finfo(dtype).min)[:, None]
        # What fills a packed row up behind its last document may be longer than the context; nobody reads it.
        return self.run(input_ids, mask, rows.positions.clamp_max(longest - 1))

    def run(self, input_ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, D) of plain rows, right-padded or not, or of masked ones."""
        given = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
        more = {key: value for key, value in given.items() if value is not None and key in self.takes}
        hidden: Tensor = self.network(input_ids=input_ids, **more).last_hidden_state
        return hidden
