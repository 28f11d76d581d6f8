"""The decoder-only transformer that every stage trains: token ids in, hidden states out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_llm.backbone.attention import AttentionMask, branched_mask, build_mask
from lit_llm.backbone.blocks import Block, Rotary, Rotation
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.norm import RMSNorm, compute_dtype


class Transformer(nn.Module):
    """Embedding, layers, final norm. ``gradient_checkpointing = True`` recomputes layers in backward to save memory."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.initialize()

    def initialize(self) -> None:
        """Normal weights; what writes into the residual stream is smaller by sqrt(2 L) (Radford et al. 2019, GPT-2)."""
        std = self.config.initializer_range
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                writes = name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(module.weight, std=std / (2 * self.config.num_layers) ** 0.5 if writes else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed_tokens.weight, std=std)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Each layer on its own, with ``torch.compile``'s arguments: they share what is compiled, so that a deep model
        takes no longer than a shallow one (12 layers, 124M, two cores: 11 s, the whole 43 s; steps take as long).
        Behind a frozen embedding the first layer, whose input has no gradient, has a compilation of its own."""
        for layer in self.layers:
            layer.compile(*args, **kwargs)

    @property
    def compiled(self) -> bool:
        return self.layers[0]._compiled_call_impl is not None  # a copy of a compiled model is not

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, D).

        ``input_ids``: (B, T) int64. ``positions``: (B, T), None: counted from 0 in each document. ``segments``: (B, T),
        the documents of packed rows; None: each row is one document (right padding is harmless, attention is causal).
        ``branches`` (B, T), with ``positions`` and ``segments``: completions of one prompt in its row, see
        ``completions.py``.
        """
        x = self.dropout(self.embed_tokens(input_ids))
        if positions is None:
            positions = default_positions(input_ids, segments)
        dtype = compute_dtype(x)
        rotation = self.rotary(positions, dtype)
        mask = self._mask(input_ids, dtype, segments, branches, positions)
        for layer in self.layers:
            x = self._layer(layer, x, rotation, mask)
        hidden: Tensor = self.norm(x)
        return hidden

    def _mask(
        self,
        input_ids: Tensor,
        dtype: torch.dtype,
        segments: Tensor | None,
        branches: Tensor | None,
        positions: Tensor,
    ) -> AttentionMask:
        window, compiled = self.config.sliding_window, self.compiled or torch.compiler.is_compiling()
        if branches is not None and segments is not None:
            return branched_mask(positions, segments, branches, dtype, window, compiled=compiled)
        length, device = input_ids.shape[1], input_ids.device
        return build_mask(length, device, dtype, segments, window, compiled=compiled)

    def _layer(self, layer: nn.Module, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, x, rotation, mask, use_reentrant=False)
        else:
            out = layer(x, rotation, mask)
        return out


def default_positions(input_ids: Tensor, segments: Tensor | None) -> Tensor:
    """Each token's place in its document: (1, T) for plain rows, (B, T) for packed ones."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    if segments is None:
        return places
    starts = torch.zeros_like(segments)
    starts[:, 1:] = (segments[:, 1:] != segments[:, :-1]) * places[:, 1:]
    return places - starts.cummax(dim=1).values
