"""A learning rate of their own for some rows of a table, whatever the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_llm.runtime.shared_tensors import is_shared, local, local_part


def learn_faster(optimizer: Optimizer, tables: Iterable[Tensor], rows: Sequence[int], lr: float) -> None:
    """From here on these rows of ``tables``, (V, D) or (V,), learn at the rate ``lr`` where their table's is lower.

    Rows of one tensor cannot be in two groups. But an update, AdamW's with its decay too, is in proportion to the rate:
    what a step changes of the rows is multiplied by what ``lr`` is to the rate of their group at the schedule's peak.
    So they follow the schedule, and the optimizer's state is as without. Of a table that is spread over processes each
    does it to the rows that it holds.
    """
    places = [(table, found) for table in tables if len(found := _held(table, rows))]
    before: list[Tensor] = []

    @torch.no_grad()
    def keep(*_: Any) -> None:
        before[:] = [local(table)[some] for table, some in places]

    @torch.no_grad()
    def widen(*_: Any) -> None:
        for (table, some), old in zip(places, before, strict=True):
            here = local(table)
            here[some] = torch.lerp(old, here[some], max(1.0, lr / _peak(optimizer, table, lr)))
        before.clear()

    if places:
        optimizer.register_step_pre_hook(keep)
        optimizer.register_step_post_hook(widen)


def _peak(optimizer: Optimizer, table: Tensor, otherwise: float) -> float:
    """The rate of a table's group at the schedule's peak; in a resumed run that of its checkpoint. ``otherwise``: of a
    table that the optimizer does not have."""
    groups = (group for group in optimizer.param_groups if any(one is table for one in group["params"]))
    return next((float(group.get("initial_lr", group["lr"])) for group in groups), otherwise)


def _held(table: Tensor, rows: Sequence[int]) -> Tensor:
    """The rows' numbers (R,) in what this process holds of the table."""
    marked = torch.zeros(len(table), *[1] * (table.ndim - 1), dtype=torch.bool)
    marked[list(rows)] = True
    if is_shared(table):
        marked = local_part(marked.expand(table.shape), table)
    found = marked.flatten(1).any(dim=1) if marked.ndim > 1 else marked
    return found.nonzero()[:, 0].to(table.device)
