"""Rows of the embedding and the head for tokens that a vocabulary has grown by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.optim.parameter_groups import ROWS, trained_numbers


def token_tables(model: Any) -> Iterator[nn.Parameter]:
    """What a model has a row, or a number, a token of: the embedding (V, D), and the head's weight (V, D) where that is
    not tied to it, and bias (V,) where it has one."""
    head = getattr(model, "lm_head", None)
    tables = [model.backbone.embed_tokens.weight, getattr(head, "weight", None), getattr(head, "bias", None)]
    yield from {id(table): table for table in tables if table is not None}.values()


@torch.no_grad()
def set_to_means(model: Any, pieces: Mapping[int, Sequence[int]]) -> None:
    """Each new token's rows become the mean of those of the tokens that it replaces (Gee et al. 2022,
    arXiv:2402.09977): what the model knows of the pieces is where the whole begins."""
    if not pieces:
        return
    for table in token_tables(model):
        rows = table if table.ndim == 2 else table[:, None]
        new, bags = torch.tensor(list(pieces), device=table.device), list(pieces.values())
        flat = torch.tensor([i for bag in bags for i in bag], device=table.device)
        starts = torch.tensor([0, *map(len, bags)], device=table.device).cumsum(0)[:-1]
        rows[new] = F.embedding_bag(flat, rows.float(), starts, mode="mean").to(table.dtype)


def train_rows(model: Any, rows: Sequence[int]) -> None:
    """Beside frozen weights, lets these rows of the token tables be trained and no others: the others' gradients are
    zero, they do not decay, and the optimizers of ``optim`` keep no moments of them."""
    for table in token_tables(model):
        mask = torch.zeros(len(table), *[1] * (table.ndim - 1), dtype=table.dtype)
        mask[list(rows)] = 1
        table.requires_grad_(True)
        setattr(table, ROWS, torch.tensor(sorted(set(rows))))
        table.register_hook(_masked(mask))  # type: ignore[no-untyped-call]


def count_trained(model: nn.Module) -> int:
    """Numbers that training changes; of a table whose new rows alone are trained (``train_rows``), theirs."""
    return sum(trained_numbers(each) for each in model.parameters() if each.requires_grad)


def _masked(mask: Tensor) -> Any:
    def hook(gradient: Tensor) -> Tensor:
        nonlocal mask
        mask = mask.to(gradient)  # where it is, from the first step on
        return gradient * mask

    return hook
