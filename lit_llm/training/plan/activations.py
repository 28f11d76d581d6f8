"""What one forward and backward pass holds besides weights and gradients, found on a few layers of the model's shape.

What a layer keeps depends on the attention backend, the precision, adapters and recomputation. So it is not written
down as a formula: passes over one and two layers and over one and two rows are watched, tensor by tensor, and what the
whole model holds follows from them, since it grows with layers, with rows and with both.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_llm.backbone.models import LanguageModel, Shape
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.objectives.language import cross_entropy


@dataclass(frozen=True)
class Activations:
    """Bytes at the peak of a pass over R rows of L layers: ``base + layer * L + (row + row_layer * L) * R``."""

    base: float
    layer: float
    row: float
    row_layer: float

    def of(self, layers: int, rows: float) -> float:
        return self.base + self.layer * layers + (self.row + self.row_layer * layers) * rows

    def rows_within(self, layers: int, room: float) -> int:
        """The most rows that fit in so many bytes; 0: not one does."""
        return max(0, int((room - self.base - self.layer * layers) // (self.row + self.row_layer * layers)))


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations make and nobody has let go of yet."""

    def __init__(self, known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {id(tensor.untyped_storage()): None for tensor in known}

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = weakref.finalize(storage, self._gone, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result


def activations(
    config: Shape,
    length: int,
    *,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
    checkpointing: bool = False,
    prepare: Callable[[LanguageModel], object] = lambda _: None,
) -> Activations:
    """Watches passes of next-token training over rows of ``length`` tokens, with random weights and tokens.

    ``dtype``: of the weights; ``autocast``: of products; None: as the weights. ``prepare`` is given each small model
    before its pass (adapters). The random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        peaks = {
            (layers, rows): _peak(config, layers, rows, length, dtype, autocast, device, checkpointing, prepare)
            for layers in (1, 2)
            for rows in (1, 2)
        }
    one, two = peaks[1, 2] - peaks[1, 1], peaks[2, 2] - peaks[2, 1]
    row_layer = max(0.0, two - one)
    row = max(0.0, one - row_layer)
    layer = max(0.0, peaks[2, 1] - peaks[1, 1] - row_layer)
    return Activations(max(0.0, peaks[1, 1] - layer - row - row_layer), layer, row, row_layer)


def _peak(
    config: Shape,
    layers: int,
    rows: int,
    length: int,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    device: str,
    checkpointing: bool,
    prepare: Callable[[LanguageModel], object],
) -> float:
    model = LanguageModel(_first(config, layers)).to(device, dtype)
    prepare(model)
    model.backbone.gradient_checkpointing = checkpointing
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(config.vocab_size, (rows, length), device=device)
    known = [ids, *model.parameters(), *(each.grad for each in model.parameters() if each.grad is not None)]
    half = torch.autocast(device, autocast) if autocast is not None else nullcontext()
    watch = _Live(known)
    with watch, half:
        loss = cross_entropy(model(ids), model.output_weight, ids, softcap=model.logit_softcap).loss
        loss.backward()  # type: ignore[no-untyped-call]
    return float(watch.peak)


def _first(config: Shape, layers: int) -> Shape:
    """The shape of the first layers alone."""
    if isinstance(config, TransformersConfig):
        return config.with_layers(layers)
    patterns = {name: getattr(config, name) for name in ("rotary_layers", "windowed_layers", "expert_layers")}
    cut = {name: pattern[:layers] for name, pattern in patterns.items() if pattern is not None}
    return replace(config, num_layers=layers, **cut)
