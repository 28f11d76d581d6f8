"""Invariants: the dial's sizes are those of the models it builds; a shape that cannot be is refused with its key."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from lit_llm.backbone.config import BackboneConfig, RopeScaling, from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError

FAMILIES = ("qwen3", "qwen2", "llama", "mistral")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_as_built(family: Any, tied: bool) -> None:
    config = from_depth(300, 2, family, tie_embeddings=tied, num_kv_heads=2)
    assert config.num_parameters == LanguageModel(config).num_parameters()


def test_the_dial() -> None:
    """Depth 12 at GPT-2's vocabulary is 124M, as GPT-2 is; the head is shared below 1B parameters."""
    small, gpt2, large = from_depth(4096, 4), from_depth(50257, 12), from_depth(32000, 28)
    assert (small.hidden_size, small.num_heads, small.head_dim, small.intermediate_size) == (256, 4, 64, 704)
    assert [(c.num_heads, c.head_dim) for c in (from_depth(9, 1, hidden_size=n) for n in (96, 192, 224))] == [
        (3, 32),
        (3, 64),
        (7, 32),
    ]
    assert gpt2.num_parameters == pytest.approx(124e6, rel=0.01)
    assert large.num_parameters > 1e9
    assert (small.tie_embeddings, gpt2.tie_embeddings, large.tie_embeddings) == (True, True, False)
    assert (gpt2.num_kv_heads, large.num_kv_heads) == (12, 7)


def test_every_part_can_be_overridden() -> None:
    config = from_depth(100, 3, hidden_size=48, num_heads=6, intermediate_size=50, num_kv_heads=3, tie_embeddings=False)
    assert (config.num_layers, config.hidden_size, config.head_dim) == (3, 48, 8)
    assert (config.intermediate_size, config.num_kv_heads, config.tie_embeddings) == (50, 3, False)


SHAPE: dict[str, Any] = {"vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2}
SHAPE |= {"head_dim": 32, "intermediate_size": 96, "max_positions": 512, "tie_embeddings": False}
GPT2 = {"norm": "layer", "gated_mlp": False, "mlp_bias": True, "learned_positions": True, "activation": "gelu_tanh"}
EXPERTS = {"num_experts": 8, "experts_per_token": 2, "expert_size": 64, "expert_layers": (True, False)}


@pytest.mark.parametrize(("family", "built"), [("qwen3", {}), ("gpt2", GPT2), ("qwen3_moe", EXPERTS)])
def test_flops_per_token_are_those_of_the_products(
    monkeypatch: pytest.MonkeyPatch, family: Any, built: dict[str, Any]
) -> None:
    """Against torch's own count of a forward, times three; embedding and norms multiply no matrices, and a token meets
    some of a mixture's experts."""
    # The one backend whose products torch counts, all of them: the causal half is not taken off.
    monkeypatch.setattr("lit_llm.backbone.attention.choose_backend", lambda *_: "explicit")
    from torch.utils.flop_counter import FlopCounterMode

    config = BackboneConfig(family=family, **SHAPE, **built)
    model, length = LanguageModel(config), 32
    assert config.num_parameters == model.num_parameters()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(model(torch.zeros(1, length, dtype=torch.int64)))
    counted = 3 * counter.get_total_flops() / length
    assert config.flops_per_token(length) == pytest.approx(counted, rel=0.02)  # biases and norms are counted


def test_families_settle_what_is_theirs() -> None:
    assert [(from_depth(9, 1, f).qk_norm, from_depth(9, 1, f).attention_bias) for f in FAMILIES] == [
        (True, False),
        (False, True),
        (False, False),
        (False, False),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"family": "t5"}, "backbone.family='t5'.*qwen3, qwen2, llama, mistral"),
        ({"family": "gpt2", "qk_norm": None}, "the gpt2 family is read with"),
        ({"rotary_layers": [True, False, True, True]}, "rotary_layers=.*the qwen3 family is read with"),
        ({"windowed_layers": [True]}, "windowed_layers has 1 values"),
        ({"attention_softcap": 50.0}, "attention_softcap=50.0: the qwen3 family"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide backbone.num_heads=4"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"norm_eps": float("nan")}, "norm_eps=nan"),
        ({"sliding_window": 0}, "sliding_window=0"),
        ({"qk_norm": False}, "qk_norm=False.*use family llama"),
        ({"family": "llama", "qk_norm": True}, "qk_norm=True.*use family qwen3"),
        ({"family": "mistral", "qk_norm": None, "attention_bias": True}, "attention_bias=True"),
        ({"family": "llama", "qk_norm": None, "sliding_window": 8}, "family llama has none"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change: dict[str, Any], expected: str) -> None:
    config: BackboneConfig = from_depth(100, 4)
    with pytest.raises(UserError, match=expected):
        dataclasses.replace(config, **change)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("ntk", 2.0), "ntk; must be one of llama3, linear"),
        (("longrope", 2.0), "short_factor"),
        (("yarn", 0.5), "factor: 0.5"),
        (("linear", 0.5), "factor: 0.5"),
        (("llama3", 2.0, 4.0, 1.0), "low_freq_factor: 4.0"),
    ],
)
def test_rope_scaling_is_checked(given: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        RopeScaling(*given)


def test_yarn_needs_a_base_above_one() -> None:
    config: BackboneConfig = from_depth(100, 4)
    with pytest.raises(UserError, match="must be above 1 with yarn"):
        dataclasses.replace(config, rope_theta=1.0, rope_scaling=RopeScaling("yarn", 2.0))


def test_the_dial_is_checked() -> None:
    for wrong in ({"depth": 0}, {"hidden_size": -1}, {"num_heads": 0}, {"head_dim": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            from_depth(100, **wrong)
