"""Random small models of families that the table here has not, as transformers makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB, CONTEXT = 61, 64
LIKE_LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_FALCON = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("FalconConfig", _FALCON),  # q, k and v are one matrix
    "stablelm": ("StableLmConfig", LIKE_LLAMA),  # part of a head is turned
    "cohere": ("CohereConfig", LIKE_LLAMA | {"logit_scale": 0.25}),
    "gptj": ("GPTJConfig", {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT,
                            "rotary_dim": 4}),  # its head has a bias
    "opt": ("OPTConfig", {"vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "word_embed_proj_dim": 16}),
    "starcoder2": ("Starcoder2Config", LIKE_LLAMA | {"sliding_window": 12}),
    "bloom": ("BloomConfig", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}),  # biases by distance
    "mamba": ("MambaConfig", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}  # fmt: skip


def model_of(name: str) -> Any:
    """In eval mode, with weights so large that attention is no mean, and biases that are not 0."""
    import transformers

    kind, settings = CONFIGS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8) if weight.ndim > 1 else weight.add_(0.1 * torch.randn_like(weight))
    return model


def folder_of(name: str, place: Path) -> tuple[Any, Path]:
    """The model, and a folder of it without a tokenizer."""
    model = model_of(name)
    model.save_pretrained(place / name)
    return model, place / name
