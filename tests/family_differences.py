"""How far logits here are from transformers': what the tests hold, and the table of lit_llm/backbone/README.md.

python -m tests.family_differences
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.huggingface import load_language_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.generation.decoder import Decoder
from tests.family_models import MODELS, rows, saved


@torch.no_grad()
def plain(theirs: Any, ours: LanguageModel) -> float:
    """Two whole rows."""
    tokens = torch.cat(rows(40, 40))
    return _largest(ours.logits(ours(tokens)), theirs(tokens).logits)


@torch.no_grad()
def packed(theirs: Any, ours: LanguageModel) -> float:
    """Three documents in one row here, each alone there. Some are longer than the window or the original context."""
    documents = rows(9, 21, 14)
    segments = torch.cat([torch.full((1, d.shape[1]), n) for n, d in enumerate(documents)], dim=1)
    found = ours.logits(ours(torch.cat(documents, dim=1), segments=segments))
    return _largest(found, torch.cat([theirs(document).logits for document in documents], dim=1))


@torch.no_grad()
def cached(theirs: Any, ours: LanguageModel) -> float:
    """A row token by token here, every part of it anew there: from within the sliding window and the original context
    to far beyond."""
    (tokens,) = rows(min(36, ours.config.max_positions))
    decoder = Decoder(ours)
    token, cache = decoder.begin(tokens[0, :5].tolist())
    found = [decoder.step(token, cache)[0]]
    found += [decoder.step(tokens[0, n : n + 1], cache)[0] for n in range(5, tokens.shape[1])]
    expected = [theirs(tokens[:, :n]).logits[0, -1] for n in range(5, tokens.shape[1] + 1)]
    return _largest(torch.stack(found), torch.stack(expected))


WAYS: dict[str, Callable[[Any, LanguageModel], float]] = {"plain": plain, "packed": packed, "cached": cached}


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def main() -> None:
    print("| family | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            theirs = saved(model, Path(folder))
            ours = load_language_model(folder).eval()
        print(f"| {name} | " + " | ".join(f"{way(theirs, ours):.1e}" for way in WAYS.values()) + " |")


if __name__ == "__main__":
    main()
