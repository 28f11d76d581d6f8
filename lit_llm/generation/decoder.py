"""The model as generation runs it: reads prompts packed without padding, then one token of every row at a time.

The plain twin is the model's own forward over the whole row; tests compare them. Nothing here takes gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.backbone.attention import attend, build_mask
from lit_llm.backbone.blocks import rotary_frequencies
from lit_llm.backbone.models import LanguageModel
from lit_llm.generation.cuda_graphs import CUDAGraphs
from lit_llm.generation.kv_cache import SMALL, BatchKVCache
from lit_llm.generation.weights import LayerWeights, Product, layer_weights


class Decoder:
    """``model``'s weights as they are now, in ``dtype``; make another one when they have changed.

    Products are computed in ``dtype``. All between them (the residual stream, norms, rotation) is at least float32.

    Args:
        positions: the most tokens that a row will hold; None: the model's context. Long contexts have large tables.
        rows: at once, as a rule: what the weights are laid out for.
        consume: give each layer's memory back as soon as it is laid out, so that a large model is never held twice; the
            model itself is of no use then. Embedding and head are held as they are, and the head once more.
    """

    def __init__(
        self,
        model: LanguageModel,
        dtype: torch.dtype | None = None,
        cuda_graph: bool = False,
        positions: int | None = None,
        rows: int = 1,
        consume: bool = False,
    ) -> None:
        weight = model.output_weight.detach()
        self.config, self.device = model.config, weight.device
        self.dtype = dtype or weight.dtype
        self.wide = torch.float32 if self.dtype in (torch.bfloat16, torch.float16) else self.dtype
        backbone = model.backbone
        self._replays = CUDAGraphs(self.compute) if cuda_graph else None
        self.layers: list[LayerWeights] = []
        for layer in backbone.layers:
            self.layers.append(layer_weights(layer, self.config, self.dtype, self.wide, rows))  # type: ignore[arg-type]
            for parameter in layer.parameters() if consume else ():
                parameter.data = parameter.data.new_empty(0)
        self.embedding = backbone.embed_tokens.weight.detach()  # read as it is, as in autocast's forward
        head = weight.to(self.wide) * backbone.norm.weight.detach().to(self.wide)
        self.head = Product(head, None, self.dtype, rows)
        self.eps = torch.tensor(self.config.norm_eps, dtype=self.wide, device=self.device)
        self.positions = positions or self.config.max_positions
        angles = torch.arange(self.positions)[:, None].float() * rotary_frequencies(self.config)
        turns = torch.polar(torch.ones_like(angles), angles)  # angles in float32, as the plain forward has them
        self.turns = turns.to(torch.complex128 if self.wide == torch.float64 else torch.complex64).to(self.device)

    def cache(self, rows: int) -> BatchKVCache:
        size = 2 * self.config.num_layers * rows * self.config.num_kv_heads * self.positions * self.config.head_dim
        dtype = self.wide if self.device.type == "cpu" and size <= SMALL else self.dtype
        return BatchKVCache(self.config, rows, self.positions, dtype, self.device)

    def begin(self, prompt: Sequence[int]) -> tuple[Tensor, BatchKVCache]:
        """What ``step`` takes: one prompt's last token, (1,), and a cache of one row that holds those before it."""
        if not 0 < len(prompt) < self.positions:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens; from 1 to {self.positions - 1} leave room for one more"
            )
        ids = torch.tensor([list(prompt)], device=self.device)
        cache, row = self.cache(1), torch.zeros(1, dtype=torch.int64, device=self.device)
        if ids.shape[1] > 1:
            self.read(ids[:, :-1], row + ids.shape[1] - 1, cache, row, row)
        return ids[:, -1], cache

    def step(self, tokens: Tensor, cache: BatchKVCache) -> Tensor:
        """Appends a token (B,) to every row of ``cache``. Returns the logits of what follows, (B, V)."""
        cache.make_room()
        return self._replays(tokens, cache) if self._replays is not None else self.compute(tokens, cache)

    def compute(self, tokens: Tensor, cache: BatchKVCache) -> Tensor:
        """A step in which nothing depends on the host, once there is room: the same work for any tokens and lengths."""
        places, newest = cache.places(), cache.newest()
        bias, turns = _bias(cache, newest, self.config.sliding_window), self.turns[newest][:, None]
        x = self.embedding[tokens].to(self.wide)
        for number, layer in enumerate(self.layers):
            heads = self._heads(layer, x, turns).to(cache.dtype)
            cache.put(number, places, heads[:, self.config.num_heads :])
            keys, values = cache.memory[number]
            x = self._rest(layer, x, _attend(heads[:, : self.config.num_heads], keys, values, bias))
        cache.advance()
        return self.head(self._norm(x))

    def read(self, rows: Tensor, lengths: Tensor, cache: BatchKVCache, into: Tensor, copies: Tensor) -> None:
        """Prompts (P, L) of ``lengths`` (P,) become the rows ``into`` (R,) of ``cache``: row ``into[r]`` holds prompt
        ``copies[r]``. The products see no padding, only the attention does."""
        count, longest = rows.shape
        valid = torch.arange(longest, device=rows.device) < lengths[:, None]
        tokens = valid.flatten().nonzero().squeeze(-1)
        turns = self.turns[tokens % longest][:, None]
        x = self.embedding[rows.flatten()[tokens]].to(self.wide)
        # Zeros, and the same for all layers: what attention gives no weight must still be a number.
        queries, width = self.config.num_heads, self.config.head_dim
        padded = torch.zeros(
            count * longest, queries + 2 * self.config.num_kv_heads, width, dtype=self.dtype, device=self.device
        )
        by_prompt = padded.view(count, longest, -1, width)
        q, k, v = torch.split(by_prompt.transpose(1, 2), [queries, *[self.config.num_kv_heads] * 2], dim=1)
        mask = build_mask(longest, self.device, self.dtype, window=self.config.sliding_window)
        for number, layer in enumerate(self.layers):
            heads = self._heads(layer, x, turns)
            heads[:, :queries] *= width**0.5  # what ``attend`` divides by is in the weights here
            padded.index_copy_(0, tokens, heads.to(self.dtype))
            cache.fill(number, into, by_prompt[copies, :, queries:])
            if number + 1 == len(self.layers):
                break  # nobody asks what the last layer says of a prompt's tokens
            x = self._rest(layer, x, attend(q, k, v, mask).transpose(1, 2).reshape(count * longest, -1)[tokens])
        cache.hold(into, lengths[copies])

    def _norm(self, x: Tensor) -> Tensor:
        return (x * self._inverse_rms(x)).to(self.dtype)

    def _inverse_rms(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()

    def _heads(self, layer: LayerWeights, x: Tensor, turns: Tensor) -> Tensor:
        """Queries, keys and values (N, H + 2 * H_kv, head_dim) of tokens x (N, D), turned, queries scaled."""
        heads = layer.qkv(self._norm(x)).to(self.wide).view(x.shape[0], -1, self.config.head_dim)
        qk = heads[:, : self.config.num_heads + self.config.num_kv_heads]
        if layer.scales is not None:
            qk.mul_(self._inverse_rms(qk)).mul_(layer.scales)
        torch.view_as_complex(qk.view(*qk.shape[:2], -1, 2)).mul_(turns)
        return heads

    def _rest(self, layer: LayerWeights, x: Tensor, attended: Tensor) -> Tensor:
        """What a layer does behind its attention: (N, D) and (N, H * head_dim) to (N, D)."""
        x = x + layer.out(attended.to(self.dtype))
        gate, up = layer.gate_up(self._norm(x)).chunk(2, dim=-1)
        return x.add_(layer.down(F.silu(gate).mul_(up)))


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """One query a row: q (B, H, head_dim), scaled; keys, values (B * H_kv, S, head_dim). Returns (B, H * head_dim)."""
    # Query heads that share a key head are rows of one product.
    scores = torch.bmm(q.reshape(len(keys), -1, q.shape[2]), keys.transpose(1, 2))
    weights = torch.softmax(scores.view(len(q), -1, scores.shape[2]).add_(bias), dim=-1).view(scores.shape)
    return torch.bmm(weights, values).view(len(q), -1)


def _bias(cache: BatchKVCache, newest: Tensor, window: int | None) -> Tensor:
    """(B, 1, capacity): 0 for the slots that a row's newest token sees, -inf for the others."""
    slots = torch.arange(cache.capacity, device=newest.device)
    hidden = slots > newest[:, None]
    if window is not None:
        hidden = hidden | (slots <= newest[:, None] - window)
    bias = torch.zeros(hidden.shape, dtype=cache.dtype, device=newest.device)
    return bias.masked_fill_(hidden, -torch.inf)[:, None]
