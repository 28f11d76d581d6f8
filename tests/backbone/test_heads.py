"""Invariants: the score is read at the last valid token, normalised; new tokens begin as the average old one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel, grow_vocabulary
from lit_llm.errors import UserError

TOKENS = torch.randint(0, 61, (3, 10), generator=torch.Generator().manual_seed(7))


def test_the_score_is_the_value_at_the_last_token(model: LanguageModel) -> None:
    score_model, lengths = ScoreModel.from_language_model(model), torch.tensor([10, 1, 6])
    values = score_model.values(TOKENS)
    assert values.shape == (3, 10) and values.dtype == torch.float32
    last = values[torch.arange(3), lengths - 1]
    assert torch.allclose(score_model(TOKENS, lengths), last, atol=1e-6)
    score_model.reward_mean.fill_(2.0)
    score_model.reward_std.fill_(4.0)
    assert torch.allclose(score_model(TOKENS, lengths), (last - 2) / 4, atol=1e-6)
    assert torch.allclose(score_model.values(TOKENS), values)


def test_what_follows_the_end_does_not_matter(model: LanguageModel) -> None:
    score_model, lengths = ScoreModel.from_language_model(model), torch.tensor([4, 7, 2])
    padded = TOKENS.clone()
    padded[torch.arange(10) >= lengths[:, None]] = 0
    assert torch.allclose(score_model(TOKENS, lengths), score_model(padded, lengths), atol=1e-6)


def test_a_score_model_is_a_copy_with_a_fresh_head(model: LanguageModel) -> None:
    torch.manual_seed(0)
    heads = [ScoreModel.from_language_model(model).score.weight for _ in range(40)]
    assert torch.cat(heads).std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.05)
    score_model = ScoreModel.from_language_model(model)
    score_model(TOKENS, torch.tensor([5, 5, 5])).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert score_model.num_parameters() == model.num_parameters() + 32


def test_scores_stay_in_float32_under_autocast(model: LanguageModel) -> None:
    score_model = ScoreModel.from_language_model(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert score_model.values(TOKENS).dtype == torch.float32


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_average(tiny: BackboneConfig, tied: bool, tmp_path: Path) -> None:
    model = LanguageModel(dataclasses.replace(tiny, tie_embeddings=tied)).eval()
    before = model.logits(model(TOKENS))
    grow_vocabulary(model, 64)
    after = model.logits(model(TOKENS))
    assert torch.allclose(after[..., :61], before, atol=1e-6)
    assert torch.allclose(after[..., 61:], before.mean(-1, keepdim=True).expand(-1, -1, 3), atol=1e-5)
    assert (model.output_weight is model.backbone.embed_tokens.weight) == tied
    save_model(tmp_path, model)
    again = load_language_model(tmp_path)
    assert again.config == model.config == model.backbone.config and again.config.vocab_size == 64
    assert torch.allclose(again.logits(again(TOKENS)), after, atol=1e-6)


def test_a_vocabulary_does_not_shrink(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="60 tokens is smaller than the model's 61"):
        grow_vocabulary(model, 60)


@pytest.mark.slow
def test_compiled_equals_eager(model: LanguageModel) -> None:
    """Plain and packed rows, training and not, with gradients."""
    segments = (torch.arange(10) // 4).expand(3, 10)
    for given in (None, segments):
        model.zero_grad()
        eager = model(TOKENS, None, given)
        eager.square().sum().backward()
        expected = [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]
        model.zero_grad()
        compiled = torch.compile(model, fullgraph=True)(TOKENS, None, given)
        compiled.square().sum().backward()
        assert torch.allclose(compiled, eager, atol=1e-5)
        found = [p.grad for p in model.backbone.parameters() if p.grad is not None]
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4)
