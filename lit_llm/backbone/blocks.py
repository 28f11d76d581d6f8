"""The parts of a layer: attention and MLP, with their norms. Parameter names are Hugging Face's, of Llama."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone.attention import AttentionMask, attend
from lit_llm.backbone.config import Activation, BackboneConfig
from lit_llm.backbone.linear import Linear
from lit_llm.backbone.norm import Norm, norm_of
from lit_llm.backbone.rotary import Rotation, rotate, rotate_first, unrotated

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Attention(nn.Module):
    """Grouped-query self-attention, with norms of queries and keys where the family has them."""

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        bias = bool(config.attention_bias)
        self.q_proj = Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = Linear(queries, config.hidden_size, bias=config.output_bias)
        widths = (queries, keys) if config.qk_norm_whole else (config.head_dim, config.head_dim)
        self.q_norm = norm_of(config, widths[0]) if config.qk_norm else None
        self.k_norm = norm_of(config, widths[1]) if config.qk_norm else None
        self.norms_whole = config.qk_norm_whole
        self.query_scale = config.query_scale(layer)
        self.rotate = rotate if config.rotary_dim == config.head_dim else rotate_first
        if not config.rotates(layer):
            self.rotate = unrotated

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        q, k, v = self.q_proj(x), self.k_proj(x), self._heads(self.v_proj(x))
        if self.norms_whole and self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self._heads(q), self._heads(k)
        if not self.norms_whole and self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self.rotate(q.transpose(1, 2), rotation), self.rotate(k.transpose(1, 2), rotation), v.transpose(1, 2)
        if self.query_scale is not None:
            q = q * self.query_scale
        out: Tensor = self.o_proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, equation 6), or with another activation."""

    def __init__(self, config: BackboneConfig, width: int | None = None) -> None:
        super().__init__()
        width, bias = width or config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(config.hidden_size, width, bias=bias)
        self.up_proj = Linear(config.hidden_size, width, bias=bias)
        self.down_proj = Linear(width, config.hidden_size, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


class PlainMLP(nn.Module):
    """down(act(up(x)))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return out


class Experts(nn.Module):
    """A mixture of MLPs: each token meets those ``experts_per_token`` that the router finds likeliest.

    Probabilities are in float32. While gradients are taken every expert is run, on no token too, so that each has a
    gradient on every rank. One product an expert: right at any size, and no faster than their number allows.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.count, self.normalize = config.experts_per_token, config.normalize_experts
        self.gate = Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(config, config.expert_size) for _ in range(config.num_experts))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # how many tokens an expert gets is the batch's to say
    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns (..., D)."""
        flat = x.flatten(0, -2)
        weights, chosen = route(self.gate(flat), self.count, self.normalize)
        order = chosen.flatten().argsort(stable=True)
        tokens, share = order // self.count, weights.flatten()[order, None]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        out, first = torch.zeros_like(flat), 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count or torch.is_grad_enabled():
                some = slice(first, first + count)
                found = expert(flat.index_select(0, tokens[some])) * share[some]
                out = out.index_add(0, tokens[some], found.to(out.dtype))
            first += count
        return out.view(x.shape)


def route(logits: Tensor, count: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Each token's weights, in the logits' dtype, and experts, both (N, count), from the router's logits (N, E)."""
    weights, chosen = torch.softmax(logits, dim=-1, dtype=torch.float32).topk(count, dim=-1)
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(logits.dtype), chosen


def mlp_of(config: BackboneConfig, layer: int) -> nn.Module:
    if config.has_experts(layer):
        return Experts(config)
    return MLP(config) if config.gated_mlp else PlainMLP(config)


class Block(nn.Module):
    """One layer: attention and MLP, each added to what came in, each after a norm (pre-norm)."""

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = mlp_of(config, layer)
        self.input_layernorm = norm_of(config, config.hidden_size)
        self.post_attention_layernorm = norm_of(config, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotation, mask))
        x = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x


class ParallelBlock(Block):
    """Attention and MLP read the same input, each through a norm of its own (GPT-J's and GPT-NeoX's)."""

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        attended = self.dropout(self.self_attn(self.input_layernorm(x), rotation, mask))
        x = x + attended + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x


class OutputNormBlock(nn.Module):
    """With norms of what attention and MLP add, beside those of what they read or alone; what is added is scaled."""

    def __init__(self, config: BackboneConfig, layer: int = 0) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = mlp_of(config, layer)
        inputs, outputs = config.norm_placement != "after", config.norm_placement != "before"
        self.input_layernorm = norm_of(config, config.hidden_size) if inputs else None
        self.post_attention_layernorm = norm_of(config, config.hidden_size) if inputs else None
        self.attention_output_norm = norm_of(config, config.hidden_size) if outputs else None
        self.mlp_output_norm = norm_of(config, config.hidden_size) if outputs else None
        self.residual_scale = config.residual_scale
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        attended = self.self_attn(_normed(self.input_layernorm, x), rotation, mask)
        x = x + self.dropout(self._scaled(_normed(self.attention_output_norm, attended)))
        found = self.mlp(_normed(self.post_attention_layernorm, x))
        x = x + self.dropout(self._scaled(_normed(self.mlp_output_norm, found)))
        return x

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.residual_scale == 1.0 else x * self.residual_scale


def _normed(norm: Norm | None, x: Tensor) -> Tensor:
    if norm is None:
        return x
    out: Tensor = norm(x)
    return out


def block_of(config: BackboneConfig, layer: int) -> nn.Module:
    """The layer of this number, of the kind that the configuration asks for."""
    if config.parallel_residual:
        return ParallelBlock(config, layer)
    plain = config.norm_placement == "before" and config.residual_scale == 1.0
    return Block(config, layer) if plain else OutputNormBlock(config, layer)
