"""The decoder-only transformer that every stage trains: token ids in, hidden states out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_llm.backbone.attention import AttentionMask, branched_mask, build_mask
from lit_llm.backbone.blocks import block_of
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.norm import compute_dtype, norm_of
from lit_llm.backbone.rotary import Rotary, Rotation


class ScaledEmbedding(nn.Embedding):
    """An embedding times ``scale``, which is rounded to the weight's dtype as Gemma's has been since it was trained."""

    def __init__(self, rows: int, size: int, scale: float) -> None:
        super().__init__(rows, size)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * torch.tensor(self.scale, dtype=self.weight.dtype)


class Transformer(nn.Module):
    """Embedding, layers, final norm. ``gradient_checkpointing = True`` recomputes layers in backward to save memory."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = (
            nn.Embedding(config.vocab_size, config.hidden_size)
            if config.embedding_factor == 1.0
            else ScaledEmbedding(config.vocab_size, config.hidden_size, config.embedding_factor)
        )
        learned = config.learned_positions
        self.embed_positions = nn.Embedding(config.max_positions, config.hidden_size) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary(config)
        numbers = range(config.num_layers)
        self.window_rotary = Rotary(config, windowed=True) if any(map(config.has_window_rope, numbers)) else None
        self.by_length = any(each.by_length for each in (self.rotary, self.window_rotary) if each is not None)
        self.layers = nn.ModuleList(block_of(config, number) for number in numbers)
        self.norm = norm_of(config, config.hidden_size)
        # What each layer reads of the angles and masks that a forward makes once.
        self.windows = list(dict.fromkeys(map(config.window_of, numbers)))
        self.reads = [(config.has_window_rope(n), self.windows.index(config.window_of(n))) for n in numbers]
        self.initialize()

    def initialize(self) -> None:
        """Normal weights; what writes into the residual stream is smaller by sqrt(2 L) (Radford et al. 2019, GPT-2)."""
        for _, weight, std in self.initial():
            nn.init.normal_(weight, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def initial(self) -> Iterator[tuple[str, Tensor, float]]:
        """The weights that begin as normal numbers, by name, with their spread, in the order of their drawing."""
        std = self.config.initializer_range
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                writes = name.endswith(("o_proj", "down_proj"))
                yield f"{name}.weight", module.weight, std / (2 * self.config.num_layers) ** 0.5 if writes else std
        yield "embed_tokens.weight", self.embed_tokens.weight, std
        if self.embed_positions is not None:
            yield "embed_positions.weight", self.embed_positions.weight, std

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Each layer on its own, with ``torch.compile``'s arguments: they share what is compiled, so that a deep model
        takes no longer than a shallow one (12 layers, 124M, two cores: 11 s, the whole 43 s; steps take as long).
        Behind a frozen embedding the first layer, whose input has no gradient, has a compilation of its own."""
        for layer in self.layers:
            layer.compile(*args, **kwargs)

    def compile_within_hooks(self, parts: Sequence[str] = ("",)) -> None:
        """Of compiled layers what they compute alone, from here on: hooks around them, which gather weights or tokens,
        stay as they are. ``parts``: the names of those parts of a layer that have such hooks; "": it has them itself.
        """
        if self.compiled:
            for layer in self.layers:
                layer._compiled_call_impl = None
                for part in map(layer.get_submodule, parts):
                    part.forward = torch.compile(part.forward)

    @property
    def compiled(self) -> bool:  # a copy of a compiled model is not
        first = self.layers[0]
        within = any("forward" in vars(each) for each in (first, first.self_attn))
        return within or first._compiled_call_impl is not None

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
        if positions is None:
            positions = default_positions(input_ids, segments)
        embedded = self.embed_tokens(input_ids)
        if self.embed_positions is not None:
            # What fills a packed row up behind its last document may be longer than the context; nobody reads it.
            places = positions if segments is None else positions.clamp_max(self.config.max_positions - 1)
            embedded = embedded + self.embed_positions(places)
        x = self.dropout(embedded)
        dtype = compute_dtype(x)
        lengths = document_lengths(positions, segments) if self.by_length else None
        rotation = turn = self.rotary(positions, dtype, lengths)
        if self.window_rotary is not None:
            turn = self.window_rotary(positions, dtype, lengths)
        masks = [self._mask(window, input_ids, dtype, segments, branches, positions) for window in self.windows]
        for layer, (windowed, mask) in zip(self.layers, self.reads, strict=True):
            x = self._layer(layer, x, turn if windowed else rotation, masks[mask])
        hidden: Tensor = self.norm(x)
        return hidden

    def _mask(
        self,
        window: int | None,
        input_ids: Tensor,
        dtype: torch.dtype,
        segments: Tensor | None,
        branches: Tensor | None,
        positions: Tensor,
    ) -> AttentionMask:
        cap, compiled = self.config.attention_softcap, self.compiled or torch.compiler.is_compiling()
        if branches is not None and segments is not None:
            return branched_mask(positions, segments, branches, dtype, window, compiled=compiled, softcap=cap)
        length, device = input_ids.shape[1], input_ids.device
        return build_mask(length, device, dtype, segments, window, compiled=compiled, softcap=cap)

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


def document_lengths(positions: Tensor, segments: Tensor | None) -> Tensor:
    """How many tokens the document of each token has, by its largest position: (B or 1, T). Completions that share a
    prompt are one document, as long as the longest of them."""
    if segments is None:
        return (positions.amax(dim=1, keepdim=True) + 1).expand_as(positions)
    numbers = torch.zeros_like(segments)
    numbers[:, 1:] = (segments[:, 1:] != segments[:, :-1]).cumsum(dim=1)
    longest = torch.zeros_like(segments).scatter_reduce(1, numbers, positions.expand_as(segments) + 1, "amax")
    return longest.gather(1, numbers)
