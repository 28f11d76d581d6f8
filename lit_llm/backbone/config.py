"""The shape of a transformer: one frozen record that every family shares, and the depth dial that fills it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lit_llm.backbone.family_table import FAMILIES, Family
from lit_llm.backbone.rope_scaling import RopeKind, RopeScaling
from lit_llm.errors import UserError
from lit_llm.runtime.options import Options

__all__ = ["BackboneConfig", "Family", "RopeKind", "RopeScaling", "from_depth"]

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of every block
TIE_BELOW = 1_000_000_000  # parameters: smaller models share the embedding with the head


DialFamily = Literal["qwen3", "qwen2", "llama", "mistral"]  # what ``from_depth`` makes
Norm = Literal["rms", "rms_offset", "layer"]
NormPlacement = Literal["before", "after", "around"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class BackboneConfig(Options):
    """What a decoder-only transformer is built from.

    ``qk_norm`` and ``attention_bias`` belong to the family (None: as the family has them), so that every folder
    written can be read by other engines. ``dropout`` acts on the embedding and on what each attention and MLP adds.

    From ``norm`` on the fields say what blocks are built of, each for itself. A family fixes some and leaves others to
    its folders (``family_table.py``), and only what its readers understand is accepted. Patterns have a value for each
    layer; None: the same for all.

    Args:
        norm: RMSNorm, RMSNorm times 1 + weight, or LayerNorm with a bias.
        norm_placement: of a sublayer's norms: on what it reads, on what it adds, or both.
        qk_norm_whole: queries and keys are each normed as a whole, not head by head.
        gated_mlp: down(act(gate(x)) * up(x)); else down(act(up(x))).
        parallel_residual: attention and MLP read the same, and are added at once.
        learned_positions: a table of positions is added to the embedding, and nothing is turned.
        rotary_share: the share of each head that is turned.
        rotary_layers: the layers that turn at all.
        windowed_layers: those that ``sliding_window`` is for.
        window_rope_theta: the base in these; None: ``rope_theta`` and ``rope_scaling``, as elsewhere.
        attention_scale: what scores are multiplied by; None: 1/sqrt(head_dim).
        attention_scale_by_layer: and by 1/n in the n-th layer.
        attention_softcap: scores s become c tanh(s/c); None: they stay.
        embedding_scale: what embeddings are multiplied by; None: sqrt(hidden_size).
        residual_scale: what is added by each sublayer is multiplied by it.
        logit_divisor: logits are divided by it.
        num_experts: of a mixture in place of the MLP, in ``expert_layers``; 0: there is none.
        router_aux_coef: weight of the load-balancing loss, which a folder says and nothing here adds.
    """

    TARGET: ClassVar[str] = "lit_llm.backbone.config.BackboneConfig"
    GROUP: ClassVar[str] = "backbone"
    GIVEN: ClassVar[tuple[str, ...]] = ("vocab_size",)
    head_bias: ClassVar[bool] = False  # no family here has one

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
    norm: Norm = "rms"
    norm_placement: NormPlacement = "before"
    qk_norm_whole: bool = False
    activation: Activation = "silu"
    gated_mlp: bool = True
    mlp_bias: bool = False
    parallel_residual: bool = False
    learned_positions: bool = False
    rotary_share: float = 1.0
    rotary_layers: Sequence[bool] | None = None
    windowed_layers: Sequence[bool] | None = None
    window_rope_theta: float | None = None
    window_rope_scaling: RopeScaling | None = None
    attention_scale: float | None = None
    attention_scale_by_layer: bool = False
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float | None = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    expert_layers: Sequence[bool] | None = None
    normalize_experts: bool = False
    router_aux_coef: float = 0.0

    def check(self) -> None:
        _one_of("backbone.family", self.family, get_args(Family))
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            _at_least(f"backbone.{name}", getattr(self, name), 1)
        _at_least("backbone.intermediate_size", self.intermediate_size, 1)
        _at_least("backbone.max_positions", self.max_positions, 1)
        self._check_attention()
        self._check_numbers()
        self._check_layers()
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
            if not FAMILIES[self.family].windows:
                raise UserError(f"backbone.sliding_window: family {self.family} has none; use mistral, qwen2 or qwen3")

    def _check_numbers(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"backbone.dropout={self.dropout} must be at least 0 and below 1")
        for name in (
            "rope_theta", "norm_eps", "initializer_range", "attention_softcap", "logit_softcap", "window_rope_theta",
            "logit_divisor",
        ):  # fmt: skip
            if not (getattr(self, name) is None or getattr(self, name) > 0):
                raise UserError(f"backbone.{name}={getattr(self, name)} must be above 0")

    def _check_layers(self) -> None:
        for name in ("rotary_layers", "windowed_layers", "expert_layers"):
            pattern = getattr(self, name)
            if pattern is None:
                continue
            if len(pattern) != self.num_layers:
                raise UserError(f"backbone.{name} has {len(pattern)} values, should have one for each layer")
            object.__setattr__(self, name, tuple(bool(value) for value in pattern))
        turned = self.head_dim * self.rotary_share
        if not 0 < self.rotary_share <= 1 or int(turned) % 2 or int(turned) < 2:
            raise UserError(
                f"backbone.rotary_share={self.rotary_share} of head_dim={self.head_dim} should be even pairs"
            )
        for scaling in (self.rope_scaling, self.window_rope_scaling):
            if scaling is not None and scaling.kind == "yarn" and not self.rope_theta > 1:
                raise UserError(f"backbone.rope_theta={self.rope_theta} must be above 1 with yarn")
            if scaling is not None:
                scaling.check_pairs(self.rotary_dim // 2)
        if self.num_experts:
            _at_least("backbone.expert_size", self.expert_size, 1)
            if not 1 <= self.experts_per_token <= self.num_experts:
                raise UserError(
                    f"backbone.experts_per_token={self.experts_per_token} must be 1 to num_experts={self.num_experts}"
                )

    def _settle_family(self) -> None:
        """Fill in what the family decides; refuse what no reader of the family would understand."""
        row = FAMILIES[self.family]
        qk_norm, bias = row.qk_norm, row.bias_default if row.bias is None else row.bias
        if self.qk_norm is None:
            object.__setattr__(self, "qk_norm", qk_norm)
        if self.attention_bias is None:
            object.__setattr__(self, "attention_bias", bias)
        if self.qk_norm != qk_norm:
            raise UserError(
                f"backbone.qk_norm={self.qk_norm}: the {self.family} family is read with qk_norm={qk_norm}; "
                + ("use family llama" if qk_norm else "use family qwen3")
            )
        if self.attention_bias != bias and row.bias is not None:
            raise UserError(
                f"backbone.attention_bias={self.attention_bias}: the {self.family} family is read with "
                f"attention_bias={bias}; use family llama or qwen3"
            )
        if row.key("head_dim") is None and self.num_heads * self.head_dim != self.hidden_size:
            raise UserError(f"backbone.head_dim={self.head_dim}: heads of {self.family} share hidden_size out")
        if row.key("num_key_value_heads") is None and self.num_kv_heads != self.num_heads:
            raise UserError(f"backbone.num_kv_heads={self.num_kv_heads}: {self.family} has as many as num_heads")
        for name in STRUCTURE - row.chosen:
            value, wanted = getattr(self, name), row.fixed.get(name, _DEFAULTS[name])
            if value != wanted:
                raise UserError(f"backbone.{name}={value!r}: the {self.family} family is read with {name}={wanted!r}")

    @property
    def rotary_dim(self) -> int:
        """How many numbers of a head are turned."""
        return int(self.head_dim * self.rotary_share)

    def window_of(self, layer: int) -> int | None:
        """The sliding window of a layer, None where it sees all."""
        return self.sliding_window if self.windowed_layers is None or self.windowed_layers[layer] else None

    def rotates(self, layer: int) -> bool:
        """Whether a layer turns queries and keys."""
        return not self.learned_positions and (self.rotary_layers is None or self.rotary_layers[layer])

    def has_experts(self, layer: int) -> bool:
        return self.num_experts > 0 and (self.expert_layers is None or self.expert_layers[layer])

    def has_window_rope(self, layer: int) -> bool:
        """Whether a layer turns by the settings for windowed ones."""
        return self.window_rope_theta is not None and self.window_of(layer) is not None

    def query_scale(self, layer: int) -> float | None:
        """What queries are multiplied by before scores are divided by sqrt(head_dim); None: nothing."""
        scale = 1.0 if self.attention_scale is None else self.attention_scale * self.head_dim**0.5
        scale /= layer + 1 if self.attention_scale_by_layer else 1
        return None if abs(scale - 1) < 1e-12 else scale

    @property
    def embedding_factor(self) -> float:
        """What embeddings are multiplied by."""
        return self.hidden_size**0.5 if self.embedding_scale is None else self.embedding_scale

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias: only Qwen2 biases q, k, v alone."""
        return bool(self.attention_bias) and FAMILIES[self.family].output_bias

    @property
    def num_parameters(self) -> int:
        """Parameters of the language model, a tied embedding counted once."""
        embedding = self.vocab_size * self.hidden_size
        return self.backbone_parameters + (0 if self.tie_embeddings else embedding)

    @property
    def backbone_parameters(self) -> int:
        """Parameters without the head."""
        positions = self.max_positions * self.hidden_size if self.learned_positions else 0
        return self._parameters(self.num_experts) + positions

    def _parameters(self, experts: int) -> int:
        """As if each mixture had so many experts, without a table of positions."""
        d, q, kv = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        norm = 2 * d if self.norm == "layer" else d
        layer = d * (2 * q + 2 * kv) + norm * (4 if self.norm_placement == "around" else 2)
        layer += (q + 2 * kv if self.attention_bias else 0) + (d if self.output_bias else 0)
        if self.qk_norm:
            layer += q + kv if self.qk_norm_whole else 2 * self.head_dim
        mixed = sum(map(self.has_experts, range(self.num_layers)))
        mlp = (self.num_layers - mixed) * self._mlp_parameters(self.intermediate_size)
        mlp += mixed * (experts * self._mlp_parameters(self.expert_size) + self.num_experts * d)
        return self.vocab_size * d + self.num_layers * layer + mlp + norm

    def _mlp_parameters(self, width: int) -> int:
        matrices = 3 if self.gated_mlp else 2
        biases = (matrices - 1) * width + self.hidden_size if self.mlp_bias else 0
        return matrices * self.hidden_size * width + biases

    def flops_per_token(self, seq_len: int) -> float:
        """Floating point operations to train on one token (forward and backward), for MFU.

        6 N for the matrices that a token meets (the head counts, the embedding's lookup does not) and 12 L H Q T for
        attention, T cut by the sliding window: PaLM (Chowdhery et al. 2022, appendix B). The causal half is not taken
        off, as there.
        """
        matrices = self._parameters(self.experts_per_token)  # the head has as many as the embedding, only looked up
        reach = sum(min(seq_len, self.window_of(layer) or seq_len) for layer in range(self.num_layers))
        return 6.0 * matrices + 12.0 * self.num_heads * self.head_dim * reach


_DEFAULTS = {each.name: each.default for each in dataclasses.fields(BackboneConfig)}
STRUCTURE = frozenset(list(_DEFAULTS)[list(_DEFAULTS).index("norm") :])  # the fields that a family fixes


def from_depth(
    vocab_size: int,
    depth: int = 4,
    family: DialFamily = "qwen3",
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
    _one_of("backbone.family", family, get_args(DialFamily))
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
