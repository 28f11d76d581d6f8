"""The model as generation runs it: reads prompts packed without padding, then one token of every row at a time.

The plain twin is the model's own forward over the whole row; tests compare them. Nothing here takes gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.attention import attend, build_mask
from lit_llm.backbone.blocks import ACTIVATIONS, route
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.models import LanguageModel
from lit_llm.generation.cuda_graphs import CUDAGraphs
from lit_llm.generation.kv_cache import SMALL, BatchKVCache
from lit_llm.generation.ropes import Ropes
from lit_llm.generation.weights import ExpertWeights, LayerWeights, MLPWeights, Product, layer_weights


class PromptReader:
    """What begins with a prompt: the project's own decoder, and that of transformers' models."""

    positions: int
    device: torch.device

    def cache(self, rows: int) -> Any:
        """Room for what is known of so many rows."""
        raise NotImplementedError

    def read(self, rows: Tensor, lengths: Tensor, cache: Any, into: Tensor, copies: Tensor) -> None:
        """Prompts (P, L) of ``lengths`` (P,) become the rows ``into`` (R,) of ``cache``: row ``into[r]`` holds prompt
        ``copies[r]``."""
        raise NotImplementedError

    def begin(self, prompt: Sequence[int]) -> tuple[Tensor, Any]:
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


class Decoder(PromptReader):
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
        self.config: BackboneConfig = model.config
        self.device = weight.device
        self.dtype = dtype or weight.dtype
        self.wide = torch.float32 if self.dtype in (torch.bfloat16, torch.float16) else self.dtype
        backbone = model.backbone
        # Which experts are run is asked of the device at every step: that cannot be recorded.
        self._replays = CUDAGraphs(self.compute) if cuda_graph and not self.config.num_experts else None
        self.layers: list[LayerWeights] = []
        for number, layer in enumerate(backbone.layers):
            self.layers.append(layer_weights(layer, self.config, number, self.dtype, self.wide, rows))
            for parameter in layer.parameters() if consume else ():
                parameter.data = parameter.data.new_empty(0)
        self.embedding: Tensor = backbone.embed_tokens.weight.detach()  # read as it is, as in autocast's forward
        self.embedding_scale = float(torch.tensor(self.config.embedding_factor, dtype=self.embedding.dtype))
        learned = backbone.embed_positions
        self.position_table: Tensor | None = None if learned is None else learned.weight.detach()
        self.head = Product(*self._head(weight, *backbone.norm.affine()), self.dtype, rows)
        self.centered, self.activation = self.config.norm == "layer", ACTIVATIONS[self.config.activation]
        self.eps = torch.tensor(self.config.norm_eps, dtype=self.wide, device=self.device)
        self.positions = positions or self.config.max_positions
        self.ropes = Ropes(self.config, self.positions, self.wide, self.device)

    def _head(self, weight: Tensor, scale: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The head that takes what the last norm has only divided."""
        wide = (
            weight.to(self.wide) / self.config.logit_divisor if self.config.logit_divisor != 1 else weight.to(self.wide)
        )
        return wide * scale.to(self.wide), None if offset is None else wide @ offset.to(self.wide)

    def cache(self, rows: int) -> BatchKVCache:
        size = 2 * self.config.num_layers * rows * self.config.num_kv_heads * self.positions * self.config.head_dim
        dtype = self.wide if self.device.type == "cpu" and size <= SMALL else self.dtype
        return BatchKVCache(self.config, rows, self.positions, dtype, self.device, tokens=self.ropes.by_length)

    def step(self, tokens: Tensor, cache: BatchKVCache) -> Tensor:
        """Appends a token (B,) to every row of ``cache``. Returns the logits of what follows, (B, V)."""
        cache.make_room()
        if self.ropes.by_length:
            self._read_again(cache)
        return self._replays(tokens, cache) if self._replays is not None else self.compute(tokens, cache)

    def compute(self, tokens: Tensor, cache: BatchKVCache) -> Tensor:
        """A step in which nothing depends on the host, once there is room: the same work for any tokens and lengths."""
        places, newest = cache.places(), cache.newest()
        biases = {window: _bias(cache, newest, window) for window in self.ropes.windows}
        tables = self.ropes.at(newest, newest + 1 if self.ropes.by_length else None)
        x = self._embedded(tokens, newest)
        for number, layer in enumerate(self.layers):
            window, turns = self.ropes.of(number, tables)
            heads = self._heads(layer, x, turns).to(cache.dtype)
            cache.put(number, places, heads[:, self.config.num_heads :])
            keys, values = cache.memory[number]
            queries = heads[:, : self.config.num_heads]
            x = self._rest(layer, x, _attend(queries, keys, values, biases[window], self.config.attention_softcap))
        cache.keep_tokens(tokens, newest)
        cache.advance()
        return self._capped(self.head(self._norm(x)))

    def _read_again(self, cache: BatchKVCache) -> None:
        """Rows that grow beyond the original context turn by other frequencies from here on, and what was said of their
        tokens changes with them. Waits for the device; of models with such positions alone (longrope)."""
        grown = (cache.lengths == self.ropes.original).nonzero().flatten()
        if len(grown):
            ids, lengths = cache.tokens_of(grown, self.ropes.original), cache.lengths[grown]
            self.read(ids, lengths, cache, grown, torch.arange(len(grown), device=self.device), self.ropes.original + 1)

    def read(
        self, rows: Tensor, lengths: Tensor, cache: BatchKVCache, into: Tensor, copies: Tensor, document: int = 0
    ) -> None:
        """Prompts (P, L) of ``lengths`` (P,) become the rows ``into`` (R,) of ``cache``: row ``into[r]`` holds prompt
        ``copies[r]``. The products see no padding, only the attention does. ``document``: how long the rows are taken
        to be at least, where what turns them depends on it."""
        count, longest = rows.shape
        valid = torch.arange(longest, device=rows.device) < lengths[:, None]
        tokens = valid.flatten().nonzero().squeeze(-1)
        places = tokens % longest
        sizes = lengths[tokens // longest].clamp_min(document) if self.ropes.by_length else None
        tables = self.ropes.at(places, sizes)
        x = self._embedded(rows.flatten()[tokens], places)
        # Zeros, and the same for all layers: what attention gives no weight must still be a number.
        queries, width = self.config.num_heads, self.config.head_dim
        padded = torch.zeros(
            count * longest, queries + 2 * self.config.num_kv_heads, width, dtype=self.dtype, device=self.device
        )
        by_prompt = padded.view(count, longest, -1, width)
        q, k, v = torch.split(by_prompt.transpose(1, 2), [queries, *[self.config.num_kv_heads] * 2], dim=1)
        cap = self.config.attention_softcap
        masks = {w: build_mask(longest, self.device, self.dtype, window=w, softcap=cap) for w in self.ropes.windows}
        for number, layer in enumerate(self.layers):
            window, turns = self.ropes.of(number, tables)
            heads = self._heads(layer, x, turns)
            heads[:, :queries] *= width**0.5  # what ``attend`` divides by is in the weights here
            padded.index_copy_(0, tokens, heads.to(self.dtype))
            cache.fill(number, into, by_prompt[copies, :, queries:])
            if number + 1 == len(self.layers):
                break  # nobody asks what the last layer says of a prompt's tokens
            x = self._rest(
                layer, x, attend(q, k, v, masks[window]).transpose(1, 2).reshape(count * longest, -1)[tokens]
            )
        if self.ropes.by_length:
            cache.hold_tokens(into, rows[copies])
        cache.hold(into, lengths[copies])

    def _embedded(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens (N,) at ``places`` (N,) of their rows: (N, D)."""
        x = self.embedding[tokens].to(self.wide)
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        return x if self.position_table is None else x + self.position_table[places].to(self.wide)

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _norm(self, x: Tensor) -> Tensor:
        """Divided as the norm divides it; what it multiplies by is in the product that follows."""
        if self.centered:
            x = x - x.mean(dim=-1, keepdim=True)
        return (x * self._inverse_rms(x)).to(self.dtype)

    def _before(self, x: Tensor) -> Tensor:
        """What a sublayer reads."""
        return x.to(self.dtype) if self.config.norm_placement == "after" else self._norm(x)

    def _inverse_rms(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()

    def _heads(self, layer: LayerWeights, x: Tensor, turns: Tensor | None) -> Tensor:
        """Queries, keys and values (N, H + 2 * H_kv, head_dim) of tokens x (N, D), turned, queries scaled."""
        heads = layer.qkv(self._before(x)).to(self.wide).view(x.shape[0], -1, self.config.head_dim)
        qk = heads[:, : self.config.num_heads + self.config.num_kv_heads]
        if layer.scales is not None and self.config.qk_norm_whole:
            for some in (qk[:, : self.config.num_heads], qk[:, self.config.num_heads :]):
                some.mul_(self._inverse_rms(some.flatten(1))[:, :, None])
            qk.mul_(layer.scales)
        elif layer.scales is not None:
            qk.mul_(self._inverse_rms(qk)).mul_(layer.scales)
        if turns is not None:
            torch.view_as_complex(qk.view(*qk.shape[:2], -1, 2)).mul_(turns)
        return heads

    def _rest(self, layer: LayerWeights, x: Tensor, attended: Tensor) -> Tensor:
        """What a layer does behind its attention: (N, D) and (N, H * head_dim) to (N, D)."""
        found = layer.out(attended.to(self.dtype))
        if self.config.parallel_residual:
            return x + found + self._mlp(layer.mlp, self._before(x))
        if layer.after is None:
            x = x + found
            return x.add_(self._mlp(layer.mlp, self._before(x)))
        x = x + self._norm_output(found, layer.after[0])
        return x.add_(self._norm_output(self._mlp(layer.mlp, self._before(x)), layer.after[1]))

    def _norm_output(self, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.to(self.wide)
        return wide * self._inverse_rms(wide) * scale

    def _mlp(self, mlp: MLPWeights | ExpertWeights, x: Tensor) -> Tensor:
        if isinstance(mlp, ExpertWeights):
            return self._experts(mlp, x)
        if not self.config.gated_mlp:
            return mlp.down(self.activation(mlp.gate_up(x)))
        gate, up = mlp.gate_up(x).chunk(2, dim=-1)
        return mlp.down(self.activation(gate).mul_(up))

    def _experts(self, mlp: ExpertWeights, x: Tensor) -> Tensor:
        """Each expert that is chosen, on its tokens. Waits for the device."""
        weights, chosen = route(mlp.router(x), self.config.experts_per_token, self.config.normalize_experts)
        out = torch.zeros_like(x)
        for number in torch.unique(chosen).tolist():
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            out.index_add_(0, tokens, self._mlp(mlp.experts[number], x[tokens]) * weights[tokens, place, None])
        return out


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, softcap: float | None) -> Tensor:
    """One query a row: q (B, H, head_dim), scaled; keys, values (B * H_kv, S, head_dim). Returns (B, H * head_dim)."""
    # Query heads that share a key head are rows of one product.
    scores = torch.bmm(q.reshape(len(keys), -1, q.shape[2]), keys.transpose(1, 2))
    if softcap is not None:  # in float32: tanh of a bfloat16 number has two digits
        scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    weights = torch.softmax(scores.view(len(q), -1, scores.shape[2]).add_(bias), dim=-1).view(scores.shape)
    return torch.bmm(weights.to(values.dtype), values).view(len(q), -1)


def _bias(cache: BatchKVCache, newest: Tensor, window: int | None) -> Tensor:
    """(B, 1, capacity): 0 for the slots that a row's newest token sees, -inf for the others."""
    slots = torch.arange(cache.capacity, device=newest.device)
    hidden = slots > newest[:, None]
    if window is not None:
        hidden = hidden | (slots <= newest[:, None] - window)
    bias = torch.zeros(hidden.shape, dtype=cache.dtype, device=newest.device)
    return bias.masked_fill_(hidden, -torch.inf)[:, None]
