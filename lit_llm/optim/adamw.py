"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) in torch's fused form, without decay where decay does harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lit_llm.errors import UserError
from lit_llm.optim.adamw_step import adamw_step
from lit_llm.optim.options import AdamWOptions
from lit_llm.optim.parameter_groups import ROWS, parameter_groups


class AdamWOfRows(torch.optim.AdamW):
    """AdamW that keeps moments of those rows alone that are trained (``adamw_step.py``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step_supports_amp_scaling = False  # the gradients come without a loss scale

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                adamw_step(self.state, group, parameters)
        return loss


def adamw(
    module: nn.Module,
    *,
    lr: float = AdamWOptions.lr,
    weight_decay: float = AdamWOptions.weight_decay,
    betas: tuple[float, float] = AdamWOptions.betas,
    eps: float = AdamWOptions.eps,
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters of ``module``; embeddings, norms and biases do not decay.

    Of a table with a few rows that alone are trained (new tokens beside adapters), moments are kept of these.
    """
    AdamWOptions(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)  # checks them
    hidden, decayed, undecayed = parameter_groups(module)
    if not hidden + decayed + undecayed:
        raise UserError("optimizer: the module has no trainable parameter")
    groups = [
        {"params": hidden + decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    by_rows = any(hasattr(parameter, ROWS) for parameter in undecayed)
    kind = AdamWOfRows if by_rows else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)
