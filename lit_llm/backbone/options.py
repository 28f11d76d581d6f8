"""The options of a backbone: what stands below ``backbone.`` in a configuration. ``BackboneConfig`` and ``RopeScaling``
are their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from lit_llm.backbone.config import BackboneConfig, DialFamily, RopeScaling, from_depth
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import EPSILON, PART, Range

__all__ = ["BackboneConfig", "DepthOptions", "RopeScaling", "TransformersOptions"]


@dataclass(frozen=True, kw_only=True)
class DepthOptions(Options):
    """One dial sets the size: depth layers of width 64 x depth. None: what follows from the depth and the family."""

    TARGET: ClassVar[str] = "lit_llm.backbone.config.from_depth"
    GROUP: ClassVar[str] = "backbone"
    GIVEN: ClassVar[tuple[str, ...]] = ("vocab_size",)
    RANGES: ClassVar[Mapping[str, Range]] = {
        "vocab_size": Range(1, 2**31 - 1), "depth": Range(1, 10**4), "hidden_size": Range(1, 10**6),
        "num_heads": Range(1, 10**5), "num_kv_heads": Range(1, 10**5), "head_dim": Range(1, 10**5),
        "intermediate_size": Range(1, 10**7), "max_positions": Range(1, 10**8), "sliding_window": Range(1, 10**8),
        "rope_theta": Range(0, 10**12, above=True), "norm_eps": EPSILON, "dropout": PART,
        "initializer_range": Range(0, 10, above=True),
    }  # fmt: skip

    vocab_size: int | None = None  # None: the tokenizer's
    depth: int = 4  # layers; 12 are GPT-2's 124M at its vocabulary
    family: DialFamily = "qwen3"  # qwen3, qwen2, llama or mistral: as which other engines read the model
    hidden_size: int | None = None  # the width; None: 64 x depth
    num_heads: int | None = None  # of the queries; None: as many as head_dim divides the width into
    num_kv_heads: int | None = None  # of keys and values; None: num_heads, a fourth of them from width 1,024 on
    head_dim: int | None = None  # width of a head; None: 64, or 32 where the model is narrow
    intermediate_size: int | None = None  # width of the MLP; None: 8/3 of hidden_size
    max_positions: int = 512  # the context, in tokens
    rope_theta: float = 10000.0  # base of the rotary embedding's frequencies
    rope_scaling: RopeScaling | None = None  # for contexts longer than the pretrained one
    norm_eps: float = 1e-6  # of RMSNorm
    qk_norm: bool | None = None  # RMSNorm on queries and keys; None: as the family has it
    attention_bias: bool | None = None  # of q, k, v; None: as the family has it
    tie_embeddings: bool | None = None  # the head is the embedding; None: below 1B parameters
    sliding_window: int | None = None  # positions that attention looks back; None: all
    dropout: float = 0.0  # on the embedding and on what each attention and MLP adds
    initializer_range: float = 0.02  # standard deviation of the first weights

    def check(self) -> None:
        super().check()
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["rope_scaling"] = self.rope_scaling if isinstance(self.rope_scaling, RopeScaling) else None
        from_depth(**{**given, "vocab_size": 1 if self.vocab_size is None else self.vocab_size})


@dataclass(frozen=True, kw_only=True)
class TransformersOptions(Options):
    """Any causal model of the package transformers, computed by it. With ``init_from`` the folder says the shape."""

    TARGET: ClassVar[str] = "lit_llm.backbone.transformers_config.shape_of"
    GROUP: ClassVar[str] = "backbone"
    GIVEN: ClassVar[tuple[str, ...]] = ("vocab_size",)
    RANGES: ClassVar[Mapping[str, Range]] = {"vocab_size": Range(1, 2**31 - 1), "dropout": PART}

    vocab_size: int | None = None  # None: the tokenizer's
    config: str | None = None  # a model folder or config.json whose shape gets random weights; None: there is init_from
    trust_remote_code: bool = False  # run Python code that the folder brings: read it first
    dropout: float = 0.0  # where the family has some, on the embedding and on what sublayers add
