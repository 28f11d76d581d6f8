"""Rotary position embedding: frequencies of every kind, angles of a forward, and the turn itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.rope_scaling import RopeScaling


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, computed once per forward: (B or 1, 1, T, head_dim)."""

    cos: Tensor
    sin: Tensor  # negated in the first half, so that turning takes no negation


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, equation 34), halves turned as in Hugging Face's layout.

    ``windowed``: that of layers with a sliding window, where they have one of their own.
    """

    def __init__(self, config: BackboneConfig, windowed: bool = False) -> None:
        super().__init__()
        self.config, self.windowed = config, windowed
        scaling = rope_of(config, windowed)[1]
        self.by_length = scaling is not None and scaling.by_length
        self.magnitude = 1.0 if scaling is None else scaling.magnitude
        # No buffer: a cast of the model to bfloat16 would ruin the frequencies.
        self.frequencies = rotary_frequencies(config, windowed)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = rotary_frequencies(self.config, self.windowed).to(fn(torch.empty(0)).device)
        return self

    def forward(self, positions: Tensor, dtype: torch.dtype, lengths: Tensor | None = None) -> Rotation:
        """positions: (B or 1, T). Angles in float32, then ``dtype``. ``lengths`` (B or 1, T): of each token's document,
        read where frequencies depend on it."""
        frequencies = self.frequencies
        if self.by_length and lengths is not None:
            frequencies = frequencies_at(self.config, lengths[:, None, :, None], self.windowed)
        angles = positions[:, None, :, None].float() * frequencies
        cos, sin = angles.cos(), angles.sin()
        if self.magnitude != 1.0:
            cos, sin = cos * self.magnitude, sin * self.magnitude
        cos, sin = cos.to(dtype), sin.to(dtype)
        return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def rope_of(config: BackboneConfig, windowed: bool = False) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the layers with a sliding window, or of the others."""
    if windowed and config.window_rope_theta is not None:
        return config.window_rope_theta, config.window_rope_scaling
    return config.rope_theta, config.rope_scaling


def rotary_frequencies(config: BackboneConfig, windowed: bool = False) -> Tensor:
    """Radians per position of each turned pair: (rotary_dim / 2,) float32 on the CPU. Where they depend on the length,
    those of documents within the original context."""
    theta, scaling = rope_of(config, windowed)
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device="cpu") / config.rotary_dim
    frequencies = 1.0 / theta**exponents
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "longrope":
        return 1.0 / (torch.tensor(scaling.short_factor, dtype=torch.float32, device="cpu") * theta**exponents)
    return _llama3(frequencies, scaling) if scaling.kind == "llama3" else _yarn(frequencies, scaling, theta)


def frequencies_at(config: BackboneConfig, lengths: Tensor, windowed: bool = False) -> Tensor:
    """Those of documents of ``lengths`` (..., 1), where frequencies depend on them: (..., rotary_dim / 2) float32."""
    theta, scaling = rope_of(config, windowed)
    assert scaling is not None
    width, device = config.rotary_dim, lengths.device
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    if scaling.kind == "longrope":
        long = 1.0 / (torch.tensor(scaling.long_factor, dtype=torch.float32, device=device) * theta**exponents)
        short = rotary_frequencies(config, windowed).to(device)
        return torch.where(lengths > scaling.original_max_positions, long, short)
    over = scaling.factor * lengths.clamp_min(config.max_positions).float() / config.max_positions
    return 1.0 / (theta * (over - (scaling.factor - 1)) ** (width / (width - 2))) ** exponents


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by ``factor``, short ones kept, those between blended."""
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # within the pretrained context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def _yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): as ``_llama3``, blended by the pair's number, not by its wavelength."""
    width = 2 * len(frequencies)

    def pair(turns: float) -> float:
        """The pair, a fraction too, that turns so often in the original context."""
        return width * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    last = last + 0.001 if first == last else last
    kept = 1 - ((torch.arange(width // 2, dtype=torch.float32, device="cpu") - first) / (last - first)).clamp(0, 1)
    return frequencies / scaling.factor * (1 - kept) + frequencies * kept


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn x (B, H, T, head_dim) by its tokens' angles."""
    if torch.compiler.is_compiling():
        return _turn(x, rotation.cos, rotation.sin, 1)
    out: Tensor = _Turn.apply(x, rotation.cos, rotation.sin)  # type: ignore[no-untyped-call]
    return out


def rotate_first(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the first numbers of each head, as many as there are angles for; the rest stays."""
    turned = rotation.cos.shape[-1]
    return torch.cat([rotate(x[..., :turned], rotation), x[..., turned:]], dim=-1)


def unrotated(x: Tensor, rotation: Rotation) -> Tensor:  # noqa: ARG001
    """For layers that turn nothing."""
    return x


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
