"""One step of fused AdamW, with moments of those rows alone that are trained."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lit_llm.optim.parameter_groups import ROWS

State = MutableMapping[Tensor, dict[str, Any]]


@torch.no_grad()
def adamw_step(state: State, group: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Changes parameters that have a gradient, as torch's AdamW does.

    ``state``: of an optimizer, by parameter: "step" () float32, "exp_avg" and "exp_avg_sq" in the parameter's shape; of
    one with rows that alone are trained (``train_rows``), (R, ...). ``group``: lr, betas, eps, weight_decay.
    """
    rows = [_rows(parameter) for parameter in parameters]
    values = [one if some is None else one[some] for one, some in zip(parameters, rows, strict=True)]
    gradients = [_gradient(one, some) for one, some in zip(parameters, rows, strict=True)]
    for parameter, some, value in zip(parameters, rows, values, strict=True):
        known = state[parameter]
        if not known:
            known["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            known["exp_avg"], known["exp_avg_sq"] = torch.zeros_like(value), torch.zeros_like(value)
        elif some is not None and known["exp_avg"].shape != value.shape:  # a checkpoint of before: of the whole table
            known |= {name: known[name][some] for name in ("exp_avg", "exp_avg_sq")}
    states = [state[parameter] for parameter in parameters]
    adamw(
        values,
        gradients,
        [known["exp_avg"] for known in states],
        [known["exp_avg_sq"] for known in states],
        [],
        [known["step"] for known in states],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    for parameter, some, value in zip(parameters, rows, values, strict=True):
        if some is not None:
            parameter[some] = value


def _rows(parameter: Tensor) -> Tensor | None:
    """The rows that alone are trained, on the parameter's device from the first step on; None: all."""
    rows: Tensor | None = getattr(parameter, ROWS, None)
    if rows is not None and rows.device != parameter.device:
        rows = rows.to(parameter.device)
        setattr(parameter, ROWS, rows)
    return rows


def _gradient(parameter: Tensor, rows: Tensor | None) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad if rows is None else parameter.grad[rows]
