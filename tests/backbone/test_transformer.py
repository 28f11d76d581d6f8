"""Invariants: packed rows are their documents apart; cached decoding is the uncached forward; padding is harmless."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lit_llm.backbone import attention
from lit_llm.backbone.config import BackboneConfig, from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.transformer import default_positions

from .conftest import VOCAB, wide_weights


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(5))


def windowed(model: LanguageModel, window: int | None) -> LanguageModel:
    config = dataclasses.replace(model.config, sliding_window=window)
    other = LanguageModel(config).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("short_row", [512, 4])
@torch.no_grad()
def test_packed_rows_are_their_documents_apart(
    model: LanguageModel, window: int | None, short_row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT_ROW", short_row)  # 4: the backends for long rows
    model = windowed(model, window)
    lengths = [[3, 9, 1, 7], [20]]
    tokens = random_tokens(2, 20)
    segments = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths])
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    packed = model(tokens, positions, segments)
    apart = [
        torch.cat([model(part[None])[0] for part in tokens[row].split(lengths[row])]) for row in range(len(lengths))
    ]
    assert torch.allclose(packed, torch.stack(apart), atol=1e-5)
    assert torch.equal(default_positions(tokens, segments), positions)
    assert torch.equal(model(tokens, None, segments), packed)


@torch.no_grad()
def test_padding_on_the_right_is_harmless(model: LanguageModel) -> None:
    tokens = random_tokens(1, 9)
    padded = torch.cat([tokens, torch.zeros(1, 6, dtype=torch.int64)], dim=1)
    assert torch.allclose(model(padded)[:, :9], model(tokens), atol=1e-5)


def test_checkpointing_changes_no_gradient(model: LanguageModel) -> None:
    tokens, twin = random_tokens(2, 10), copy.deepcopy(model)
    twin.backbone.gradient_checkpointing = True
    for each in (model, twin):
        each(tokens).square().sum().backward()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, atol=1e-6)


def test_bfloat16_autocast_stays_close(model: LanguageModel) -> None:
    tokens = random_tokens(2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(tokens)
        assert hidden.dtype == torch.bfloat16
    exact = model(tokens)
    assert (hidden.float() - exact).norm() / exact.norm() < 0.03
    half = copy.deepcopy(model).to(torch.bfloat16)(tokens)
    assert (half.float() - exact).norm() / exact.norm() < 0.05


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = wide_weights(LanguageModel(from_depth(VOCAB, 1, hidden_size=32, dropout=0.3)))
    tokens = random_tokens(1, 8)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_keys_stay_clean_under_compile(tiny: BackboneConfig) -> None:
    model = LanguageModel(tiny)
    keys = list(model.state_dict())
    model.compile()
    model.backbone.compile()
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("packed", [False, True])
def test_all_layers_share_one_compilation_and_compute_the_same(packed: bool, tiny: BackboneConfig) -> None:
    """Packed batches whose documents begin elsewhere need no other compilation."""
    torch._dynamo.reset()
    model = wide_weights(LanguageModel(dataclasses.replace(tiny, max_positions=512)))
    plain = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    model.backbone.compile(backend=counter)
    length = 320 if packed else 64  # packed rows from 257 tokens on are read in blocks
    for seed in range(3):
        torch.manual_seed(seed)
        tokens = torch.randint(0, VOCAB, (2, length))
        segments = torch.randint(0, 9, (2, length)).sort(dim=1).values if packed else None
        results = []
        for each in (model, plain):
            with torch.autocast("cpu", torch.bfloat16):
                hidden = each(tokens, segments=segments)
            hidden.float().square().mean().backward()
            results.append([hidden.detach().float(), *(p.grad for p in each.parameters())])
            each.zero_grad()
        for ours, expected in zip(*results, strict=True):
            assert (ours - expected).norm() <= 0.03 * expected.norm()
    assert tiny.num_layers > 1 and counter.frame_count == 1
    assert model.backbone.compiled and not copy.deepcopy(model).backbone.compiled


def test_initial_scale(tiny: BackboneConfig) -> None:
    """What writes into the residual stream is smaller by the root of twice the layers."""
    torch.manual_seed(0)
    config = dataclasses.replace(tiny, hidden_size=128, intermediate_size=256)
    layer = LanguageModel(config).backbone.layers[0]
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)
