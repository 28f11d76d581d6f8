"""Small models of every family that GGUF has, with a tokenizer that was trained here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.config import BackboneConfig, RopeScaling, from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.runtime.node_package import node_package
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import Tokenizer
from tests.small_gguf import TEXTS

NODE = Path(os.environ.get("NODE_LLAMA_CPP", ".")).absolute()
needs_llama_cpp = pytest.mark.skipif(node_package(NODE) is None, reason="no node-llama-cpp: give NODE_LLAMA_CPP=FOLDER")
SHAPES: dict[str, dict] = {
    "llama": {"family": "llama", "tie_embeddings": False},
    "llama with biases": {"family": "llama", "attention_bias": True},
    "llama 3": {"family": "llama", "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 1024)},
    "linear": {"family": "llama", "rope_scaling": RopeScaling("linear", 4.0)},
    "yarn": {"family": "qwen2", "rope_scaling": RopeScaling("yarn", 4.0, original_max_positions=24)},
    "yarn and its strength": {"family": "llama", "rope_scaling": RopeScaling(
        "yarn", 4.0, original_max_positions=24, attention_factor=1.3)},
    "mistral": {"family": "mistral", "sliding_window": 48},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3", "head_dim": 128},
}  # fmt: skip


def small_tokenizer() -> Tokenizer:
    code = ["def foo(bar):\n\n\treturn foo(bar):\n\n"] * 30  # pieces that only some rules make
    return train_bpe(TEXTS + code, vocab_size=320, show_progress=False)


def small_model(rows: int, **shape) -> LanguageModel:
    """Norms and biases are random too: what is left out would show."""
    torch.manual_seed(0)
    given = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "max_positions": 96, **shape}
    config: BackboneConfig = from_depth(rows, 2, initializer_range=0.1, **given)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1) if parameter.ndim == 1 else None
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen3 model, with three spare rows."""
    tokenizer = small_tokenizer()
    place = tmp_path / "run" / "model"
    save_model(place, small_model(tokenizer.vocab_size + 3, family="qwen3"), tokenizer)
    return place
