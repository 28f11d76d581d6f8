"""What one forward and backward pass holds besides weights and gradients, found on a few layers of the model's shape.

What a layer keeps depends on the attention backend, the precision, adapters and recomputation. So it is not written
down as a formula: passes over one and two layers and over one and two rows are watched, tensor by tensor, and what the
whole model holds follows from them, since it grows with layers, with rows and with both.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_llm.backbone.models import LanguageModel, Shape
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.objectives.language import cross_entropy

PARTS = ("loss", "layers", "embeddings")  # of a pass, in the order of time; the first begins with the forward pass


@dataclass(frozen=True)
class Growth:
    """Bytes at the most in a part of a pass over R rows of L layers:
    ``base + layer * L + (row + row_layer * L) * R``."""

    base: float
    layer: float
    row: float
    row_layer: float

    def of(self, layers: int, rows: float) -> float:
        return self.base + self.layer * layers + (self.row + self.row_layer * layers) * rows

    def rows_within(self, layers: int, room: float) -> float:
        """The most rows that fit in so many bytes; inf: any number does."""
        left, each = room - self.base - self.layer * layers, self.row + self.row_layer * layers
        return 0.0 if left < 0 else math.inf if each <= 0 else left // each


@dataclass(frozen=True)
class Activations:
    """Bytes at the peak of a pass: the most of its parts.

    Each grows with layers and rows, and their maximum does not: two layers hold less than an embedding's gradient, and
    thirty more.
    """

    parts: tuple[Growth, ...]

    def of(self, layers: int, rows: float) -> float:
        return max(part.of(layers, rows) for part in self.parts)

    def rows_within(self, layers: int, room: float) -> int:
        """The most rows that fit in so many bytes; 0: not one does."""
        return int(min(10**9, *(part.rows_within(layers, room) for part in self.parts)))


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
            (layers, rows): _peaks(config, layers, rows, length, dtype, autocast, device, checkpointing, prepare)
            for layers in (1, 2)
            for rows in (1, 2)
        }
    return Activations(tuple(_growth({key: found[part] for key, found in peaks.items()}) for part in PARTS))


def _growth(peaks: Mapping[tuple[int, int], float]) -> Growth:
    """From the bytes of one and two layers, by one and two rows."""
    one, two = peaks[1, 2] - peaks[1, 1], peaks[2, 2] - peaks[2, 1]
    row_layer = max(0.0, two - one)
    row = max(0.0, one - row_layer)
    layer = max(0.0, peaks[2, 1] - peaks[1, 1] - row_layer)
    return Growth(max(0.0, peaks[1, 1] - layer - row - row_layer), layer, row, row_layer)


def _peaks(
    config: Shape,
    layers: int,
    rows: int,
    length: int,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    device: str,
    checkpointing: bool,
    prepare: Callable[[LanguageModel], object],
) -> dict[str, float]:
    """Of each part: up to the loss's gradient by the hidden states, then back through the layers to the embeddings'
    output, then what is left."""
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
    found = dict.fromkeys(PARTS, 0.0)

    def ends(part: str) -> Callable[[torch.Tensor], None]:
        def note(_: torch.Tensor) -> None:
            found[part], watch.peak = float(watch.peak), watch.live

        return note

    def embedded(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(ends("layers"))  # type: ignore[no-untyped-call]

    for part in model.modules():
        if isinstance(part, nn.Embedding) and part.num_embeddings == config.vocab_size:
            part.register_forward_hook(embedded)
    with watch, half:
        hidden = model(ids)
        hidden.register_hook(ends("loss"))
        cross_entropy(hidden, model.output_weight, ids, softcap=model.logit_softcap).loss.backward()  # type: ignore[no-untyped-call]
    found["embeddings" if found["layers"] else "layers"] = float(watch.peak)
    return found


def _first(config: Shape, layers: int) -> Shape:
    """The shape of the first layers alone."""
    if isinstance(config, TransformersConfig):
        return config.with_layers(layers)
    patterns = {name: getattr(config, name) for name in ("rotary_layers", "windowed_layers", "expert_layers")}
    cut = {name: pattern[:layers] for name, pattern in patterns.items() if pattern is not None}
    return replace(config, num_layers=layers, **cut)
