"""Muon for the hidden matrices and AdamW for the rest, as one optimizer.

Muon replaces a matrix's momentum by its nearest orthogonal matrix (Jordan et al., kellerjordan.github.io/posts/muon).
Matrices of one shape are orthogonalised together, as one batch of matmuls; where several processes hold their rows,
each does some of the matrices (``whole_matrices.py``). The update is scaled to AdamW's usual size
(0.2 root mean square; Liu et al., arXiv:2502.16982, equation 4), so that learning rates and decay carry over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_llm.errors import UserError
from lit_llm.optim.adamw_step import adamw_step
from lit_llm.optim.options import NEWTON_SCHULZ_STEPS, MuonAdamWOptions
from lit_llm.optim.parameter_groups import parameter_groups
from lit_llm.optim.whole_matrices import on_whole_matrices
from lit_llm.runtime import processor
from lit_llm.runtime.shared_tensors import local

Quintic = tuple[float, float, float]

POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""The best quintic for each of five steps, with a margin for bf16 (Amsel et al., arXiv:2505.16932, section 4). They are
chosen one after the other, so that the first n are the best n (theorem 3.1 there)."""
assert len(POLAR_EXPRESS) == NEWTON_SCHULZ_STEPS


def newton_schulz(
    matrices: Tensor, coefficients: Sequence[Quintic] = POLAR_EXPRESS, dtype: torch.dtype | None = None
) -> Tensor:
    """The orthogonal polar factor U V^T of each matrix U S V^T, approximately: (..., rows, columns) to the same.

    ``dtype`` is that of the matmuls: bf16 where the device multiplies it fast, else float32. Matmuls are all it takes.
    """
    dtype = dtype or matmul_dtype(matrices.device)
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the Gram matrix of the short side is the smaller one
    # The norm in float32: squares of a bf16 matrix lose digits. 2% of room, since rounding may lift the largest value.
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    x = (x / (norm * 1.02 + 1e-7)).to(dtype)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = torch.baddbmm(x, _quadratic(gram, b, c), x, beta=a) if x.ndim == 3 else a * x + _quadratic(gram, b, c) @ x
    return x.mT if tall else x


def _quadratic(gram: Tensor, b: float, c: float) -> Tensor:
    if gram.ndim == 3:
        return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    return b * gram + c * (gram @ gram)


def matmul_dtype(device: torch.device) -> torch.dtype:
    """bf16 where matmuls in it run in hardware, else float32."""
    if device.type == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        good = device.type == "cpu" and processor.has_bf16()
    return torch.bfloat16 if good else torch.float32


class MuonAdamW(torch.optim.Optimizer):
    """Groups with ``muon=True`` take Muon's step with Nesterov momentum, the others fused AdamW's.

    Args:
        groups: each with params, muon, lr, weight_decay; Muon's with momentum, AdamW's with betas and eps.
        coefficients: of the Newton-Schulz steps.
        dtype: of their matmuls; the device's best by default.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        coefficients: Sequence[Quintic] = POLAR_EXPRESS,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(groups, {})
        self.coefficients, self.dtype = tuple(coefficients), dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            buffers.append(state["momentum"])
        held, gradients, buffers = ([local(each) for each in column] for column in (parameters, gradients, buffers))
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(held, 1 - group["lr"] * group["weight_decay"])
        same_shape = defaultdict(list)
        for parameter, *parts in zip(parameters, held, gradients, buffers, strict=True):
            layout = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", None)
            same_shape[(parameter.shape, layout)].append((parameter, *parts))
        for (shape, _), members in same_shape.items():
            like, mine, grads, momenta = (list(column) for column in zip(*members, strict=True))
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov
            updates = on_whole_matrices(self._orthogonal, ahead, like)
            size = 0.2 * math.sqrt(max(shape[-2:]))
            torch._foreach_add_(mine, updates, alpha=-group["lr"] * size)

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        return newton_schulz(matrices, self.coefficients, self.dtype).to(matrices.dtype)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        adamw_step(self.state, group, parameters)


def muon_adamw(
    module: nn.Module,
    *,
    lr: float = MuonAdamWOptions.lr,
    muon_lr: float | None = MuonAdamWOptions.muon_lr,
    weight_decay: float = MuonAdamWOptions.weight_decay,
    momentum: float = MuonAdamWOptions.momentum,
    betas: tuple[float, float] = MuonAdamWOptions.betas,
    eps: float = MuonAdamWOptions.eps,
    newton_schulz_steps: int = MuonAdamWOptions.newton_schulz_steps,
) -> MuonAdamW:
    """Muon over the hidden matrices of ``module`` (its learning rate is ``lr`` unless ``muon_lr`` is given), AdamW over
    embeddings, heads, norms and biases, of which only an untied head decays.

    ``newton_schulz_steps``: 1 to 5. With 3 the singular values above 1/100 of the norm end between 0.15 and 1.9, not
    0.85 and 1.15, which small models hardly feel, and the matmuls of an update are 0.6 of those of 5.
    """
    MuonAdamWOptions(  # checks them
        lr=lr, muon_lr=muon_lr, weight_decay=weight_decay, momentum=momentum, betas=betas, eps=eps,
        newton_schulz_steps=newton_schulz_steps,
    )  # fmt: skip
    hidden, decayed, undecayed = parameter_groups(module)
    if not hidden + decayed + undecayed:
        raise UserError("optimizer: the module has no trainable parameter")
    rest = {"muon": False, "lr": lr, "betas": (betas[0], betas[1]), "eps": eps}
    groups: list[dict[str, Any]] = [
        {**rest, "params": undecayed, "weight_decay": 0.0},
        {**rest, "params": decayed, "weight_decay": weight_decay},
        {
            "params": hidden,
            "muon": True,
            "lr": lr if muon_lr is None else muon_lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
        },
    ]
    return MuonAdamW([group for group in groups if group["params"]], POLAR_EXPRESS[:newton_schulz_steps])
