"""Packed rows taken apart again: each document, or each completion with its prompt, as a row of its own.

For models that cannot be told by a mask who sees whom: those of recurrent states, of biases by distance, and of sliding
windows shorter than a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Places = NDArray[np.int64]


def documents(segments: Tensor, branches: Tensor | None, longest: int) -> list[Places]:
    """The places of each document's tokens, counted through all rows (B, T); a prompt's are in all its completions.

    What is longer than ``longest`` is cut there: only what fills a row up is.
    """
    rows, width = segments.shape
    ends = segments.cpu().numpy()
    kinds = None if branches is None else branches.cpu().numpy()
    found: list[Places] = []
    for row in range(rows):
        cuts = np.flatnonzero(np.diff(ends[row])) + 1
        for part in np.split(np.arange(width), cuts):
            here = part + row * width
            of = np.zeros(len(part), dtype=np.int64) if kinds is None else kinds[row, part]
            if not of.any():
                found.append(here[:longest])
                continue
            found += [np.concatenate([here[of == 0], here[of == one]])[:longest] for one in np.unique(of[of > 0])]
    return found


def in_rows(
    run: Callable[[Tensor], Tensor], input_ids: Tensor, places: Sequence[Places], same_length: bool = False
) -> Tensor:
    """Hidden states (B, T, D) of packed rows, computed document by document.

    Args:
        run: right-padded rows (N, L) to hidden states (N, L, D).
        places: as ``documents`` gives them.
        same_length: never pad, where a row's width changes what is computed.
    """
    groups: dict[int, list[Places]] = {}
    for one in places:  # of about equal lengths, so that little is padded
        groups.setdefault(len(one) if same_length else (len(one) - 1).bit_length(), []).append(one)
    flat, read_at = input_ids.flatten(), np.zeros(input_ids.numel(), dtype=np.int64)
    hidden: list[Tensor] = []
    base = 0
    for group in groups.values():
        width = max(map(len, group))
        at = np.stack([np.pad(one, (0, width - len(one)), mode="edge") for one in group])
        for number, one in enumerate(group):
            read_at[one] = base + number * width + np.arange(len(one))
        hidden.append(run(flat[torch.from_numpy(at).to(flat.device)]).flatten(0, 1))
        base += at.size
    # As an embedding: the gradients that meet at a place are added in one order.
    found = F.embedding(torch.from_numpy(read_at).to(flat.device), torch.cat(hidden))
    return found.view(*input_ids.shape, -1)
