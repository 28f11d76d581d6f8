"""The parts of a layer: rotary position embedding, attention, SwiGLU. Parameter names are Hugging Face's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone.attention import AttentionMask, attend
from lit_llm.backbone.config import BackboneConfig, RopeScaling
from lit_llm.backbone.linear import Linear
from lit_llm.backbone.norm import RMSNorm


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, computed once per forward: (B or 1, 1, T, head_dim)."""

    cos: Tensor
    sin: Tensor  # negated in the first half, so that turning takes no negation


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, equation 34), halves turned as in Hugging Face's layout."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        # No buffer: a cast of the model to bfloat16 would ruin the frequencies.
        self.frequencies = rotary_frequencies(config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = rotary_frequencies(self.config).to(fn(torch.empty(0)).device)
        return self

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """positions: (B or 1, T). Angles in float32, then ``dtype``."""
        angles = positions[:, None, :, None].float() * self.frequencies
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def rotary_frequencies(config: BackboneConfig) -> Tensor:
    """Radians per position of each pair: (head_dim / 2,) float32 on the CPU."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    return frequencies / scaling.factor if scaling.kind == "linear" else _llama3(frequencies, scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by ``factor``, short ones kept, those between blended."""
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # within the pretrained context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn x (B, H, T, head_dim) by its tokens' angles."""
    if torch.compiler.is_compiling():
        return _turn(x, rotation.cos, rotation.sin, 1)
    out: Tensor = _Turn.apply(x, rotation.cos, rotation.sin)  # type: ignore[no-untyped-call]
    return out


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    if x.is_cpu:  # then every pass runs through memory in order: 0.6 of the time, and attention needs no copy
        x = x.contiguous()
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin, value=direction)


class _Turn(torch.autograd.Function):
    """A rotation's gradient is the rotation back: half the passes of autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


class Attention(nn.Module):
    """Grouped-query self-attention, with QK-norm where the family has it (Qwen3)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        bias = bool(config.attention_bias)
        self.q_proj = Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = Linear(queries, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        q, k, v = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotate(q.transpose(1, 2), rotation), rotate(k.transpose(1, 2), rotation), v.transpose(1, 2)
        out: Tensor = self.o_proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, equation 6)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention and MLP, each added to what came in, each after a norm (pre-norm)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation, mask: AttentionMask) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotation, mask))
        x = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x
