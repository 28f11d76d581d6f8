"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) in torch's fused form, without decay where decay does harm."""

from __future__ import annotations

import torch
from torch import nn

from lit_llm.errors import UserError
from lit_llm.optim.options import AdamWOptions
from lit_llm.optim.parameter_groups import parameter_groups


def adamw(
    module: nn.Module,
    *,
    lr: float = AdamWOptions.lr,
    weight_decay: float = AdamWOptions.weight_decay,
    betas: tuple[float, float] = AdamWOptions.betas,
    eps: float = AdamWOptions.eps,
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters of ``module``; embeddings, norms and biases do not decay."""
    AdamWOptions(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)  # checks them
    hidden, decayed, undecayed = parameter_groups(module)
    if not hidden + decayed + undecayed:
        raise UserError("optimizer: the module has no trainable parameter")
    groups = [
        {"params": hidden + decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)
