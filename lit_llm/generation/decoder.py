"""The model as generation runs it: reads prompts packed without padding, then one token of every row at a time.

The plain twin is the model's own forward with a cache; tests compare them. Nothing here takes gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.backbone.blocks import rotary_frequencies
from lit_llm.backbone.heads import LanguageModel
from lit_llm.generation.lines import SMALL, Lines
from lit_llm.generation.weights import LayerWeights, Product, layer_weights

GROUP = 16
"""Rows of a CPU's batch that attention handles at once: each group looks only as far back as its longest row."""


class Decoder:
    """``model``'s weights as they are now, in ``dtype``; make another one when they have changed.

    Products are computed in ``dtype``. All between them (the residual stream, norms, rotation) is at least float32.
    """

    def __init__(self, model: LanguageModel, dtype: torch.dtype | None = None) -> None:
        weight = model.output_weight.detach()
        self.config, self.device = model.config, weight.device
        self.dtype = dtype or weight.dtype
        self.wide = torch.float32 if self.dtype in (torch.bfloat16, torch.float16) else self.dtype
        backbone = model.backbone
        self.layers: list[LayerWeights] = [
            layer_weights(layer, self.config, self.dtype, self.wide)  # type: ignore[arg-type]
            for layer in backbone.layers
        ]
        self.embedding = backbone.embed_tokens.weight.detach().to(self.dtype)
        self.head = Product(weight.to(self.wide) * backbone.norm.weight.detach().to(self.wide), None, self.dtype)
        self.eps = torch.tensor(self.config.norm_eps, dtype=self.wide, device=self.device)
        angles = torch.arange(self.config.max_positions)[:, None].float() * rotary_frequencies(self.config)
        turns = torch.polar(torch.ones_like(angles), angles)  # angles in float32, as the plain forward has them
        self.turns = turns.to(torch.complex128 if self.wide == torch.float64 else torch.complex64).to(self.device)

    def cache(self, rows: int, capacity: int) -> Lines:
        size = 2 * self.config.num_layers * rows * self.config.num_kv_heads * capacity * self.config.head_dim
        dtype = self.wide if self.device.type == "cpu" and size <= SMALL else self.dtype
        return Lines(self.config, rows, capacity, dtype, self.device)

    def step(self, tokens: Tensor, cache: Lines) -> Tensor:
        """Appends a token (B,) to every row of ``cache``. Returns the logits of what follows, (B, V)."""
        slots = cache.slots()
        turns = self.turns[slots][:, None]
        attention = _Attention(cache, GROUP if self.device.type == "cpu" else cache.batch, self.config.sliding_window)
        x = self.embedding[tokens].to(self.wide)
        for number, layer in enumerate(self.layers):
            q, k, v = self._heads(layer, x, turns)
            cache.put(number, slots, k, v)
            x = self._rest(layer, x, attention(number, q))
        cache.advance()
        return self.head(self._norm(x))

    def read(self, rows: Tensor, lengths: Tensor, cache: Lines, into: Tensor, copies: Tensor) -> None:
        """Prompts (P, L) of ``lengths`` (P,) become the rows ``into`` (R,) of ``cache``: row ``into[r]`` holds prompt
        ``copies[r]``. The products see no padding, only the attention does."""
        count, longest = rows.shape
        valid = torch.arange(longest, device=rows.device) < lengths[:, None]
        tokens = valid.flatten().nonzero().squeeze(-1)
        turns = self.turns[tokens % longest][:, None]
        x = self.embedding[rows.flatten()[tokens]].to(self.wide)
        # Zeros, and the same for all layers: what attention gives no weight must still be a number.
        padded = [x.new_zeros(count * longest, heads, self.config.head_dim) for heads in self._head_counts()]
        allowed = self._window(longest)
        for number, layer in enumerate(self.layers):
            for buffer, heads in zip(padded, self._heads(layer, x, turns), strict=True):
                buffer.index_copy_(0, tokens, heads)
            q, k, v = (buffer.view(count, longest, -1, self.config.head_dim).transpose(1, 2) for buffer in padded)
            cache.fill(number, into, k[copies], v[copies])
            grouped = q.shape[1] != k.shape[1]
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, is_causal=allowed is None, scale=1.0, enable_gqa=grouped
            )
            x = self._rest(layer, x, out.transpose(1, 2).reshape(count * longest, -1)[tokens])
        cache.hold(into, lengths[copies])

    def _head_counts(self) -> tuple[int, int, int]:
        return self.config.num_heads, self.config.num_kv_heads, self.config.num_kv_heads

    def _window(self, length: int) -> Tensor | None:
        """(L, L) bool of a sliding window; None: causal alone."""
        window = self.config.sliding_window
        if window is None or window >= length:
            return None
        back = torch.arange(length, device=self.device)
        distance = back[:, None] - back
        return (distance >= 0) & (distance < window)

    def _norm(self, x: Tensor) -> Tensor:
        return (x * self._inverse_rms(x)).to(self.dtype)

    def _inverse_rms(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()

    def _heads(self, layer: LayerWeights, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (N, H, head_dim), keys and values (N, H_kv, head_dim) of tokens x (N, D), turned, queries scaled."""
        heads = layer.qkv(self._norm(x)).to(self.wide).view(x.shape[0], -1, self.config.head_dim)
        turned, queries = self.config.num_heads + self.config.num_kv_heads, self.config.num_heads
        qk, v = heads[:, :turned], heads[:, turned:]
        if layer.scales is not None:
            qk = (qk * self._inverse_rms(qk)).mul_(layer.scales)
        qk = torch.view_as_real(torch.view_as_complex(qk.view(*qk.shape[:2], -1, 2)) * turns).flatten(-2)
        return qk[:, :queries], qk[:, queries:], v

    def _rest(self, layer: LayerWeights, x: Tensor, attended: Tensor) -> Tensor:
        """What a layer does behind its attention: (N, D) and (N, H * head_dim) to (N, D)."""
        x = x + layer.out(attended.to(self.dtype))
        gate, up = layer.gate_up(self._norm(x)).chunk(2, dim=-1)
        return x.add_(layer.down(F.silu(gate).mul_(up)))


class _Attention:
    """One step's attention to the cache: masks built once for all layers, each group of rows with its own extent."""

    def __init__(self, cache: Lines, size: int, window: int | None) -> None:
        self.cache = cache
        starts = range(0, cache.batch, max(1, size))
        self.groups = [
            (slice(start, start + size), extent, _bias(cache, slice(start, start + size), extent, window))
            for start, extent in zip(starts, cache.extents(size), strict=True)
        ]

    def __call__(self, layer: int, q: Tensor) -> Tensor:
        """q: (B, H, head_dim), scaled. Returns (B, H * head_dim)."""
        keys, values, heads = self.cache.keys[layer], self.cache.values[layer], self.cache.heads
        q = q.to(keys.dtype)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows, extent, bias in self.groups:
            lines = slice(rows.start * heads, rows.stop * heads)
            k, v = keys[lines, :extent], values[lines, :extent]
            # Query heads that share a key head are rows of one product.
            scores = torch.bmm(q[rows].reshape(k.shape[0], -1, k.shape[2]), k.transpose(1, 2))
            shape = scores.shape
            weights = torch.softmax(scores.view(-1, heads, *shape[1:]).add_(bias), dim=-1).view(shape)
            out[rows] = torch.bmm(weights, v).view(-1, *q.shape[1:])
        return out.flatten(1)


def _bias(cache: Lines, rows: slice, extent: int, window: int | None) -> Tensor:
    """(R, 1, 1, extent): 0 for the slots that a row's newest token sees, -inf for the others."""
    newest = cache.slots()[rows, None]
    slots = torch.arange(extent, device=newest.device)
    hidden = slots > newest
    if window is not None:
        hidden = hidden | (slots <= newest - window)
    bias = torch.zeros(hidden.shape, dtype=cache.keys[0].dtype, device=newest.device)
    return bias.masked_fill_(hidden, -torch.inf)[:, None, None]
