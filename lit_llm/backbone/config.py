"""The shape of a transformer: one frozen record that every family shares, and the depth dial that fills it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import FACTOR, SOME, Range

Family = Literal["qwen3", "qwen2", "llama", "mistral"]
RopeKind = Literal["llama3", "linear"]

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of every block
TIE_BELOW = 1_000_000_000  # parameters: smaller models share the embedding with the head


@dataclass(frozen=True)
class RopeScaling(Options):
    """How rotary frequencies are stretched for contexts longer than the pretrained one.

    ``linear`` divides every frequency by ``factor`` (Chen et al. 2023, position interpolation). ``llama3`` divides only
    the low ones and blends in between, by wavelength against ``original_max_positions`` (Llama 3.1's release).
    """

    TARGET: ClassVar[str] = "lit_llm.backbone.config.RopeScaling"
    GROUP: ClassVar[str] = "rope_scaling"
    KEY: ClassVar[str] = "backbone.rope_scaling"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "factor": Range(1, 10**6), "low_freq_factor": FACTOR, "high_freq_factor": FACTOR,
        "original_max_positions": SOME,
    }  # fmt: skip

    kind: RopeKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def check(self) -> None:
        _one_of("backbone.rope_scaling.kind", self.kind, get_args(RopeKind))
        _at_least("backbone.rope_scaling.factor", self.factor, 1.0)
        if self.kind == "llama3":
            _at_least("backbone.rope_scaling.original_max_positions", self.original_max_positions, 1)
            if not 0 < self.low_freq_factor < self.high_freq_factor:
                raise UserError(
                    f"backbone.rope_scaling.low_freq_factor={self.low_freq_factor} must be above 0 and below "
                    f"high_freq_factor={self.high_freq_factor}"
                )


@dataclass(frozen=True)
class BackboneConfig(Options):
    """What a decoder-only transformer is built from.

    ``qk_norm`` and ``attention_bias`` belong to the family (None: as the family has them), so that every folder
    written can be read by other engines. ``dropout`` acts on the embedding and on what each attention and MLP adds.
    """

    TARGET: ClassVar[str] = "lit_llm.backbone.config.BackboneConfig"
    GROUP: ClassVar[str] = "backbone"
    GIVEN: ClassVar[tuple[str, ...]] = ("vocab_size",)

    family: Family
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    rope_theta: float = 1e6
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qk_norm: bool | None = None
    attention_bias: bool | None = None
    tie_embeddings: bool = True
    sliding_window: int | None = None
    dropout: float = 0.0
    initializer_range: float = 0.02

    def check(self) -> None:
        _one_of("backbone.family", self.family, get_args(Family))
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            _at_least(f"backbone.{name}", getattr(self, name), 1)
        _at_least("backbone.intermediate_size", self.intermediate_size, 1)
        _at_least("backbone.max_positions", self.max_positions, 1)
        self._check_attention()
        self._check_numbers()
        self._settle_family()

    def _check_attention(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"backbone.num_kv_heads={self.num_kv_heads} must divide backbone.num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"backbone.head_dim={self.head_dim} must be even: rotary embedding turns pairs")
        if self.sliding_window is not None:
            _at_least("backbone.sliding_window", self.sliding_window, 1)
            if self.family == "llama":
                raise UserError("backbone.sliding_window: family llama has none; use mistral, qwen2 or qwen3")

    def _check_numbers(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"backbone.dropout={self.dropout} must be at least 0 and below 1")
        for name in ("rope_theta", "norm_eps", "initializer_range"):
            if not getattr(self, name) > 0:
                raise UserError(f"backbone.{name}={getattr(self, name)} must be above 0")

    def _settle_family(self) -> None:
        """Fill in what the family decides; refuse what no reader of the family would understand."""
        qk_norm, bias = self.family == "qwen3", self.family == "qwen2"
        if self.qk_norm is None:
            object.__setattr__(self, "qk_norm", qk_norm)
        if self.attention_bias is None:
            object.__setattr__(self, "attention_bias", bias)
        if self.qk_norm != qk_norm:
            raise UserError(
                f"backbone.qk_norm={self.qk_norm}: the {self.family} family is read with qk_norm={qk_norm}; "
                + ("use family llama" if qk_norm else "use family qwen3")
            )
        if self.attention_bias != bias and self.family in ("qwen2", "mistral"):
            raise UserError(
                f"backbone.attention_bias={self.attention_bias}: the {self.family} family is read with "
                f"attention_bias={bias}; use family llama or qwen3"
            )

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias: only Qwen2 biases q, k, v alone."""
        return bool(self.attention_bias) and self.family != "qwen2"

    @property
    def num_parameters(self) -> int:
        """Parameters of the language model, a tied embedding counted once."""
        embedding = self.vocab_size * self.hidden_size
        return self.backbone_parameters + (0 if self.tie_embeddings else embedding)

    @property
    def backbone_parameters(self) -> int:
        """Parameters without the head."""
        d, q, kv = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = d * (2 * q + 2 * kv) + 3 * d * self.intermediate_size + 2 * d
        layer += (q + 2 * kv if self.attention_bias else 0) + (d if self.output_bias else 0)
        layer += 2 * self.head_dim if self.qk_norm else 0
        return self.vocab_size * d + self.num_layers * layer + d

    def flops_per_token(self, seq_len: int) -> float:
        """Floating point operations to train on one token (forward and backward), for MFU.

        6 N for the matrices (the head counts, the embedding's lookup does not) and 12 L H Q T for attention, T cut by
        the sliding window: PaLM (Chowdhery et al. 2022, appendix B). The causal half is not taken off, as there.
        """
        matrices = self.backbone_parameters  # the head has as many as the embedding, which is only looked up
        reach = min(seq_len, self.sliding_window or seq_len)
        return 6.0 * matrices + 12.0 * self.num_layers * self.num_heads * self.head_dim * reach


def from_depth(
    vocab_size: int,
    depth: int = 4,
    family: Family = "qwen3",
    hidden_size: int | None = None,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    max_positions: int = 512,
    rope_theta: float = 10000.0,
    rope_scaling: RopeScaling | None = None,
    norm_eps: float = 1e-6,
    qk_norm: bool | None = None,
    attention_bias: bool | None = None,
    tie_embeddings: bool | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> BackboneConfig:
    """One dial sets a size, every part can be overridden. Raises UserError for a shape that cannot be.

    ``depth`` layers of width 64 x depth: 4 is about 4M parameters at a vocabulary of 4,096; 12 is GPT-2's 124M at
    50,257; 28 is about 1.2B at 32,000. Heads are 64 wide, 32 below a width of 128 and up to 256 where 64 does not
    divide it; keys and values are shared by 4 query heads from width 1,024 (GQA, Ainslie et al. 2023); the MLP is 8/3
    as wide (SwiGLU, Shazeer 2020).
    """
    _at_least("backbone.depth", depth, 1)
    _at_least("backbone.vocab_size", vocab_size, 1)
    hidden = 64 * depth if hidden_size is None else hidden_size
    _at_least("backbone.hidden_size", hidden, 1)
    width = _head_dim(hidden, num_heads) if head_dim is None else head_dim
    _at_least("backbone.head_dim", width, 1)
    heads = max(1, hidden // width) if num_heads is None else num_heads
    _at_least("backbone.num_heads", heads, 1)
    config = BackboneConfig(
        family=family,
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=depth,
        num_heads=heads,
        num_kv_heads=_kv_heads(hidden, heads) if num_kv_heads is None else num_kv_heads,
        head_dim=width,
        intermediate_size=_round_up(hidden * 8 / 3, 32) if intermediate_size is None else intermediate_size,
        max_positions=max_positions,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        norm_eps=norm_eps,
        qk_norm=qk_norm,
        attention_bias=attention_bias,
        tie_embeddings=True if tie_embeddings is None else tie_embeddings,
        sliding_window=sliding_window,
        dropout=dropout,
        initializer_range=initializer_range,
    )
    if tie_embeddings is None and config.num_parameters >= TIE_BELOW:
        return dataclasses.replace(config, tie_embeddings=False)
    return config


def _head_dim(hidden: int, num_heads: int | None) -> int:
    if num_heads is not None and num_heads > 0:
        return hidden // num_heads
    # Half as many scores: 0.95 of a small model's step, and no worse (benchmark to_loss, its ablation "4 heads").
    return 64 if hidden > 256 or (hidden >= 128 and hidden % 64 == 0) else 32


def _kv_heads(hidden: int, heads: int) -> int:
    return heads // 4 if hidden >= 1024 and heads % 4 == 0 else heads


def _round_up(value: float, multiple: int) -> int:
    return multiple * -(-int(value) // multiple)


def _at_least(key: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{key}={value} must be at least {least}")


def _one_of(key: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UserError(f"{key}={value!r} is not supported: use one of {', '.join(accepted)}")
