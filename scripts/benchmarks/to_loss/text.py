"""Characters of one text as nanoGPT prepares them, and the evaluation that everybody takes.

The vocabulary is the text's distinct characters, the first nine tenths are trained on, the rest is the validation split
(nanoGPT, data/shakespeare_char/prepare.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_llm.errors import UserError

EVALUATED_ROWS = 256


@dataclass(frozen=True)
class Characters:
    """Ids (N,) int64 of the two splits."""

    vocab_size: int
    training: Tensor
    validation: Tensor


def read_characters(file: Path, length: int) -> Characters:
    """The splits of a text file. Raises UserError where it cannot be read, or holds too little for a row."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"text={file}: cannot be read ({type(error).__name__}); give a text file in UTF-8") from None
    border = int(0.9 * len(text))
    if len(text) - border <= length:
        raise UserError(f"text={file}: has {len(text)} characters; a tenth of it must hold a row of {length + 1}")
    number = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    return Characters(len(number), ids[:border], ids[border:])


def rows(ids: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels, (rows, length) each, of the windows that begin at ``starts`` (rows,)."""
    places = starts[:, None] + torch.arange(length)
    return ids[places], ids[places + 1]


@torch.no_grad()
def evaluate(model: nn.Module, ids: Tensor, length: int) -> float:
    """Mean loss in nats a character over the whole of ``ids`` in windows side by side, in the weights' precision."""
    starts = torch.arange(0, len(ids) - length, length)
    model.eval()
    total = 0.0
    for first in range(0, len(starts), EVALUATED_ROWS):
        part = starts[first : first + EVALUATED_ROWS]
        total += float(model(*rows(ids, part, length))) * len(part)
    model.train()
    return total / len(starts)


def draw(ids: Tensor, count: int, length: int, repeated: bool, generator: torch.Generator) -> Tensor:
    """Where ``count`` windows begin: anywhere and independently (as nanoGPT draws them), or, not ``repeated``, side by
    side from a random offset and each once before any comes again."""
    if repeated:
        return torch.randint(len(ids) - length, (count,), generator=generator)
    offset = int(torch.randint(min(length, len(ids) - length), (), generator=generator))
    windows = (len(ids) - offset - 1) // length
    epochs = [torch.randperm(windows, generator=generator) for _ in range(-(-count // windows))]
    return torch.cat(epochs)[:count] * length + offset
