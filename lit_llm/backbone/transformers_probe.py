"""What a model of transformers heeds, found out by asking it once: each check compares two ways to the same numbers.

Weights are scaled up meanwhile, by powers of two and so exactly back again: with those of a new model, of a spread of
0.02, attention hardly looks at positions, and a wrong one would not be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_llm.errors import UserError

FIRST, SECOND = [3, 1, 4, 1, 5], [9, 2, 6]
ALIKE = 1e-2  # the largest difference over the largest number: rounding is 1e-6 to 1e-3, another mask about 1
_LOUD = 2.0  # what a matrix makes of independent numbers of size 1


@torch.no_grad()
def examine(whole: Any, network: Any) -> None:
    """Sets ``packs`` and ``caches`` of a ``TransformersNetwork``, which is of the model ``whole``. Raises UserError
    where hidden states see later tokens, or where the head makes other logits of them than ``logit_divisor`` and
    ``logit_softcap`` say."""
    config = network.config
    weight = network.embed_tokens.weight
    first, second = (torch.tensor([ids], device=weight.device) % config.vocab_size for ids in (FIRST, SECOND))
    training = whole.training
    whole.eval()
    try:
        with torch.autocast(weight.device.type, enabled=False):
            _check_head(whole, network, first)
            with _louder(whole):
                loud = bool(torch.isfinite(network.run(first)).all())
                if loud:
                    _compare(network, first, second)
            if not loud:
                _compare(network, first, second)
    finally:
        whole.train(training)


def _compare(network: Any, first: Tensor, second: Tensor) -> None:
    alone = [network.run(ids)[0] for ids in (first, second)]
    width = first.shape[1]
    padded = network.run(torch.cat([first, _padded(second, width)]))
    if not (_alike(padded[0], alone[0]) and _alike(padded[1, : second.shape[1]], alone[1])):
        raise UserError(
            f"model_type={network.config.family!r}: its hidden states depend on later tokens, so it is no causal "
            "language model and cannot be trained as one"
        )
    by_length = network.config.turns_by_length
    network.packs = not by_length and {"attention_mask", "position_ids"} <= network.takes
    network.packs = network.packs and _tried(lambda: _packed(network, first, second), torch.cat(alone))
    network.caches = not by_length and {"attention_mask", "use_cache"} <= network.takes
    network.caches = network.caches and _tried(lambda: _cached(network, first, second), torch.cat(alone)[[-3, -2, -1]])


def _padded(ids: Tensor, width: int) -> Tensor:
    return torch.cat([ids, ids.new_zeros(1, width - ids.shape[1])], dim=1)


def _packed(network: Any, first: Tensor, second: Tensor) -> Tensor:
    """Both documents in one row."""
    sizes = torch.tensor([first.shape[1], second.shape[1]], device=first.device)
    segments = torch.arange(2, device=first.device).repeat_interleave(sizes)[None]
    window = network.config.window
    if window is not None and window < segments.shape[1]:  # masks are not used on rows that are longer than it
        raise ValueError
    hidden: Tensor = network(torch.cat([first, second], dim=1), None, segments)[0]
    return hidden


def _cached(network: Any, first: Tensor, second: Tensor) -> Tensor:
    """The second document's states, token by token, behind what pads it on the left, beside the first."""
    from transformers import DynamicCache

    past, found = DynamicCache(), []
    pad = first.shape[1] - second.shape[1]
    rows = torch.cat([first, torch.cat([second.new_zeros(1, pad), second], dim=1)])
    seen = torch.ones_like(rows)
    seen[1, :pad] = 0
    for begin, end in ((0, pad + 1), (pad + 1, pad + 2), (pad + 2, pad + 3)):
        states = cached(network, rows[:, begin:end], seen[:, :end], past)
        found.append(states[1, -1])
    return torch.stack(found)


def cached(network: Any, ids: Tensor, seen: Tensor, past: Any) -> Tensor:
    """Hidden states (B, T, D) of tokens (B, T) that follow what ``past`` holds; ``seen`` (B, S + T): 0 for padding."""
    name = "cache" if "cache" in network.takes else "past_key_values"  # as older releases call it
    given: dict[str, Any] = {"attention_mask": seen, name: past, "use_cache": True}
    if "position_ids" in network.takes:
        given["position_ids"] = (seen.cumsum(dim=1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    out = network.network(input_ids=ids, **given)
    if past.get_seq_length() != seen.shape[1]:
        raise ValueError("keys and values are kept elsewhere")
    hidden: Tensor = out.last_hidden_state
    return hidden


def _tried(states: Any, wanted: Tensor) -> bool:
    try:
        return _alike(states(), wanted)
    except Exception:
        return False


def _check_head(whole: Any, network: Any, ids: Tensor) -> None:
    head, config = whole.get_output_embeddings(), network.config
    if head is None:
        return
    logits = head(network.run(ids) / config.logit_divisor)
    if config.head_bias and config.logit_divisor != 1:
        raise UserError(f"model_type={config.family!r}: logits with a bias are scaled; such a head is not read here")
    if config.logit_softcap is not None:
        logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
    wanted = whole(input_ids=ids).logits
    if wanted.shape != logits.shape or not _alike(logits, wanted, 1e-3):
        raise UserError(
            f"model_type={config.family!r}: its head makes other logits than its output matrix with a scale, a bias "
            "and a soft cap does; such a head is not read here"
        )


def _alike(found: Tensor, wanted: Tensor, within: float = ALIKE) -> bool:
    return float((found - wanted).abs().max()) <= within * max(float(wanted.abs().max()), 1e-30)


@contextmanager
def _louder(module: nn.Module) -> Iterator[None]:
    """Every matrix times the power of two that makes what it gives as large as what it takes."""
    factors = []
    for weight in module.parameters():
        if weight.ndim >= 2:
            size = float(weight.float().square().mean().sqrt()) * math.sqrt(weight.shape[-1])
            factors.append((weight, 2.0 ** min(12, max(0, round(math.log2(_LOUD / size)))) if size > 0 else 1.0))
    for weight, factor in factors:
        weight.mul_(factor)
    try:
        yield
    finally:
        for weight, factor in factors:
            weight.div_(factor)
