"""Tiny random models, here and in transformers (which only the tests install)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.config import BackboneConfig, from_depth
from lit_llm.backbone.models import LanguageModel

VOCAB = 61


@pytest.fixture
def tiny() -> BackboneConfig:
    """Two layers, grouped keys."""
    return from_depth(VOCAB, depth=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=128)


@pytest.fixture
def model(tiny: BackboneConfig) -> LanguageModel:
    torch.manual_seed(0)
    return wide_weights(LanguageModel(tiny))


def wide_weights(model: Any) -> Any:
    """Larger weights and uneven norms, so that a wrong mask, angle or scale shows well above rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model.eval()


@pytest.fixture
def theirs_saved(tmp_path: Path) -> Any:
    """Save a random model of transformers: (class name stem, head, settings) -> (folder, the model)."""
    transformers = pytest.importorskip("transformers")

    def save(stem: str, head: str = "CausalLM", shards: str = "5GB", **settings: Any) -> tuple[Path, Any]:
        base = {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
        }
        config = getattr(transformers, f"{stem}Config")(**(base | settings))
        torch.manual_seed(1)
        theirs = wide_weights(getattr(transformers, f"{stem}For{head}")(config))
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shards)
        return tmp_path / "theirs", theirs

    return save
