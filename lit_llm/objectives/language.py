"""Next-token objectives: cross-entropy and log-probabilities straight from hidden states, in bounded memory.

The logits of all tokens are never held at once unless they are small. Softmax and sums are in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_llm.records import IGNORE

_CPU_CHUNK_BYTES = 8 * 2**20  # logits of a chunk in float32: small enough to stay in a CPU's last-level cache
_CPU_SOFTMAX_BYTES = 2 * 2**20  # of probabilities in float32 that the loss makes at once: for an inner cache
_GPU_CHUNK_BYTES = 512 * 2**20  # large enough to fill a GPU
_KEEP_BYTES = 256 * 2**20  # of probabilities kept for the backward pass, or of logits that become their gradients
_LEAST_ROWS = 256  # at least: a product of fewer rows with a vocabulary of 50k runs at 3/4 of the speed


class CrossEntropy(NamedTuple):
    """A sum and its count, so that the caller divides once over the whole accumulation window and all ranks."""

    loss: Tensor  # () float32: sum of the negative log-likelihoods, and of the z-loss; carries the gradient
    tokens: Tensor  # () int64: how many tokens were trained, the sum's count
    nll: Tensor  # () float32: the sum without the z-loss, detached


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    z_loss: float = 0.0,
    chunk_tokens: int | None = None,
    softcap: float | None = None,
) -> CrossEntropy:
    """Summed cross-entropy of ``labels`` (...) under ``softmax(hidden (..., D) @ weight (V, D)^T)``.

    Positions labelled ``IGNORE`` take no part. ``z_loss`` weighs ``logsumexp(logits)^2`` (PaLM, arXiv:2204.02311,
    section 5). The logits become their own gradients, ``chunk_tokens`` rows at a time, as soon as the loss is known: so
    nothing is recomputed and at most 256 MB of them, or 256 rows, are held; hence no second derivatives. ``softcap`` c:
    logits are c tanh(product / c) (Gemma 2).
    """
    flat, targets = _trained_positions(hidden, labels)
    flat, chunk = flat.to(_compute_dtype(weight)), chunk_tokens or _softmax_tokens(weight)
    with_gradient = torch.is_grad_enabled()
    loss, nll = _SummedCrossEntropy.apply(flat, weight, targets, z_loss, chunk, with_gradient, softcap)  # type: ignore[no-untyped-call]
    return CrossEntropy(loss, (labels != IGNORE).sum(), nll)


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Log-probability of each label at this temperature, float32 in the shape of ``labels``; 0 where ``IGNORE``.

    ``hidden`` (..., D), ``weight`` (V, D). Differentiable in both. Probabilities are kept for the backward pass
    when they fit in memory, else recomputed chunk by chunk. ``softcap``: as ``cross_entropy``, before the temperature.
    """
    flat, targets = _trained_positions(hidden, labels)
    flat, chunk = flat.to(_compute_dtype(weight)), chunk_tokens or _chunk_tokens(weight)
    with_gradient = torch.is_grad_enabled()  # within apply it never is
    logps: Tensor = _TokenLogps.apply(flat, weight, targets, temperature, chunk, softcap, with_gradient)  # type: ignore[no-untyped-call]
    if targets.numel() == labels.numel():
        return torch.where(labels == IGNORE, 0.0, logps.view(labels.shape))
    return torch.zeros(labels.shape, device=logps.device, dtype=logps.dtype).masked_scatter(labels != IGNORE, logps)


@torch.no_grad()
def foreseen_tokens(
    hidden: Tensor, weight: Tensor, places: Tensor, targets: Tensor, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """How likely tokens are, and which are the likeliest at their places: no gradient.

    ``hidden`` (P, D), ``weight`` (V, D); the M ``targets`` are foreseen at rows ``places`` (M,) of ``hidden``, of which
    several may share one: its logits are computed once. Returns log-probabilities (M,) float32 and (M,) bool: of equal
    logits the lowest token counts as the likeliest. ``softcap``: as ``cross_entropy``.
    """
    dtype = _compute_dtype(weight)
    distinct, which = torch.unique(places, return_inverse=True)
    by_place = which.argsort(stable=True)
    bounds = torch.searchsorted(which[by_place], torch.arange(len(distinct) + 1, device=which.device))
    logps = torch.empty(len(targets), dtype=_exact(dtype), device=hidden.device)
    likeliest = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    head = weight.to(dtype)
    for rows in _chunks(slice(0, len(distinct)), _chunk_tokens(weight)):
        every = _chunk_logps(hidden[distinct[rows]].to(dtype), head, 1.0, softcap)
        some = by_place[bounds[rows.start] : bounds[rows.stop]]
        at, wanted = which[some] - rows.start, targets[some]
        logps[some] = every[at, wanted]
        likeliest[some] = every.argmax(dim=-1)[at] == wanted
    return logps, likeliest


@torch.no_grad()
def token_entropy(hidden: Tensor, weight: Tensor, temperature: float = 1.0, softcap: float | None = None) -> Tensor:
    """Entropy in nats of the next-token distribution at each position of ``hidden`` (..., D): (...), no gradient."""
    dtype = _compute_dtype(weight)
    flat, head = hidden.reshape(-1, hidden.shape[-1]).to(dtype), weight.to(dtype)
    entropies = []
    for rows in _chunks(slice(0, len(flat)), _chunk_tokens(weight)):
        logps = _chunk_logps(flat[rows], head, temperature, softcap)
        entropies.append(-(logps.exp() * logps).sum(-1))
    result = torch.cat(entropies) if entropies else flat.new_zeros(0, dtype=_exact(dtype))
    return result.view(hidden.shape[:-1])


class _SummedCrossEntropy(torch.autograd.Function):
    """The loss is a scalar, so its gradient is known up to one factor as soon as the probabilities are."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        chunk: int,
        with_gradient: bool,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        head, exact = weight.to(hidden.dtype), _exact(weight.dtype)
        with_gradient = with_gradient and any(ctx.needs_input_grad[:2])
        trains_head = with_gradient and ctx.needs_input_grad[1]  # beside adapters it is frozen
        hidden_grad = torch.empty_like(hidden) if with_gradient else hidden
        head_grad: Tensor | None = None
        sums = torch.zeros(2, device=hidden.device, dtype=exact)  # of the negative log-likelihood, and with the z-loss
        held = _held_tokens(hidden, weight) if with_gradient else _chunk_tokens(weight)
        for block in _chunks(slice(0, len(hidden)), held):
            logits = hidden[block] @ head.T
            for rows in _chunks(slice(0, len(logits)), chunk):
                slope = None if softcap is None else _cap(logits[rows], softcap, exact)
                sums += _chunk_loss(logits[rows], targets[block][rows], z_loss, exact, with_gradient)
                if slope is not None:
                    logits[rows] *= slope
            if with_gradient:  # which the logits have become
                torch.mm(logits, head, out=hidden_grad[block])
            if trains_head:
                product = logits.T @ hidden[block]
                head_grad = product if head_grad is None else product.to(exact).add_(head_grad)
            del logits  # before the next are made
        if with_gradient:
            if trains_head:
                head_grad = torch.zeros_like(weight) if head_grad is None else head_grad.to(weight.dtype)
            ctx.save_for_backward(hidden_grad, head_grad)
        nll, loss = sums[0].clone(), sums[1].clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        factor = grads[0]
        # In the factor's own precision: as a bfloat16 number it would bias every gradient by up to 0.4%.
        by_head = None if head_grad is None else head_grad * factor
        return (hidden_grad.to(factor.dtype) * factor).to(hidden_grad.dtype), by_head, None, None, None, None, None


def _cap(logits: Tensor, softcap: float, exact: torch.dtype) -> Tensor:
    """Caps products in place; returns the slope at each."""
    part = torch.tanh(logits.to(exact) / softcap)
    logits.copy_(part * softcap)
    return 1 - part.square()


def _chunk_loss(logits: Tensor, targets: Tensor, z_loss: float, exact: torch.dtype, with_gradient: bool) -> Tensor:
    """(2,): the summed negative log-likelihood, and the same with the z-loss, whose gradient replaces the logits.

    The normaliser is read off the largest probability, which never underflows: one softmax and two reads for its row's
    maximum take 0.6 of the time of log-softmax and exp, (512, 4096) in bfloat16.
    """
    probabilities = torch.softmax(logits, dim=-1, dtype=exact)
    largest = probabilities.amax(dim=-1, keepdim=True)
    normaliser = logits.amax(dim=-1, keepdim=True).to(exact) - largest.log()  # logsumexp of the logits
    index, valid = targets.clamp_min(0).unsqueeze(1), (targets != IGNORE).unsqueeze(1)
    nll = ((normaliser - logits.gather(1, index)) * valid).sum()
    penalty = z_loss * (normaliser.square() * valid).sum()
    if with_gradient:
        if z_loss:
            probabilities *= 1 + 2 * z_loss * normaliser
        probabilities.scatter_add_(1, index, -torch.ones_like(largest))
        if not logits.is_cpu:  # on a CPU the ignored rows are left out beforehand
            probabilities *= valid
        logits.copy_(probabilities)
    return torch.stack([nll, nll + penalty])


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        softcap: float | None,
        with_gradient: bool,
    ) -> Tensor:
        head, ctx.softcap = weight.to(hidden.dtype), softcap
        ctx.keep = (
            with_gradient and any(ctx.needs_input_grad[:2]) and hidden.shape[0] * head.shape[0] * 4 <= _KEEP_BYTES
        )
        ctx.temperature, ctx.chunk, ctx.weight_dtype = temperature, chunk, weight.dtype
        logps, kept = [], []
        for rows in _chunks(slice(0, len(hidden)), chunk):
            every = _chunk_logps(hidden[rows], head, temperature, softcap)
            logps.append(every.gather(1, targets[rows].clamp_min(0).unsqueeze(1)).squeeze(1))
            if ctx.keep:
                kept.append(every)
        ctx.save_for_backward(hidden, head, targets, *kept)
        return torch.cat(logps) if logps else hidden.new_zeros(0, dtype=_exact(weight.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets, *kept = ctx.saved_tensors
        scale = (grads[0] / ctx.temperature).unsqueeze(1)
        hidden_grad = torch.empty_like(hidden)
        trains_head = ctx.needs_input_grad[1]
        head_grad = torch.zeros_like(head, dtype=_exact(head.dtype)) if trains_head else None
        for number, rows in enumerate(_chunks(slice(0, len(hidden)), ctx.chunk)):
            every = kept[number] if ctx.keep else _chunk_logps(hidden[rows], head, ctx.temperature, ctx.softcap)
            logits_grad = every.exp().mul_(-scale[rows])  # d log p_y / d logits = one_hot(y) - p
            logits_grad.scatter_add_(1, targets[rows].clamp_min(0).unsqueeze(1), scale[rows])
            if ctx.softcap is not None:
                logits_grad *= _cap(hidden[rows] @ head.T, ctx.softcap, logits_grad.dtype)
            small = logits_grad.to(hidden.dtype)
            hidden_grad[rows] = small @ head
            if head_grad is not None:
                head_grad += small.T @ hidden[rows]
        return hidden_grad, None if head_grad is None else head_grad.to(ctx.weight_dtype), None, None, None, None, None


def _chunk_logps(hidden: Tensor, head: Tensor, temperature: float, softcap: float | None) -> Tensor:
    logits, exact = hidden @ head.T, _exact(hidden.dtype)
    if softcap is not None:
        _cap(logits, softcap, exact)
    if temperature != 1.0:
        logits = logits.to(exact) / temperature
    return torch.log_softmax(logits, dim=-1, dtype=exact)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Softmax and sums: float32, or float64 when the model is in float64."""
    return torch.promote_types(dtype, torch.float32)


def _trained_positions(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flattens, and on a CPU drops the ignored rows; on a GPU selecting would wait for the forward pass to finish."""
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    if not hidden.is_cpu:
        return flat, targets
    trained = targets != IGNORE
    if bool(trained.all()):
        return flat, targets
    places = trained.nonzero().squeeze(1)
    return F.embedding(places, flat), targets[places]  # flat[places] takes five times as long, backward


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """Under autocast the matmuls run in its dtype; cast once a call, not a chunk."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _chunk_tokens(weight: Tensor) -> int:
    if weight.is_cpu:
        return max(_LEAST_ROWS, _CPU_CHUNK_BYTES // (4 * weight.shape[0]))
    return max(64, _GPU_CHUNK_BYTES // (4 * weight.shape[0]))


def _held_tokens(hidden: Tensor, weight: Tensor) -> int:
    """Many at once, so that the head's gradient is one product: at 124M adding up those of 256 rows each took 10% of a
    step. And in one buffer: 2,048 tokens and 50,304 words take 0.90 of the time of chunks of 256."""
    return max(_LEAST_ROWS, _KEEP_BYTES // (weight.shape[0] * hidden.element_size()))


def _softmax_tokens(weight: Tensor) -> int:
    return max(32, _CPU_SOFTMAX_BYTES // (4 * weight.shape[0])) if weight.is_cpu else _chunk_tokens(weight)


def _chunks(rows: slice, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))
