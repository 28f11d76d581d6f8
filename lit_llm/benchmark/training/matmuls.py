"""The roofline, measured: a training step's matrix products alone, run bare on this machine.

No step that does these products can be faster. The products are those that a step here asks for, written down while
it runs: shapes, layouts and dtypes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_llm.benchmark.training.step import TrainingStep

_FACTORS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "baddbmm_": 1}
"""The products that torch knows, and where the first of their two factors stands."""


class Factor(NamedTuple):
    shape: tuple[int, ...]
    transposed: bool
    dtype: torch.dtype


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products of all that runs inside: ``counted[(Factor, Factor)]``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[tuple[Factor, Factor]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FACTORS.get(func.overloadpacket.__name__)
        if first is not None:
            self.counted[_factor(args[first]), _factor(args[first + 1])] += 1
        return func(*args, **(kwargs or {}))


class MatmulsAlone:
    """A contestant that does nothing but the products of ``step``, as often as one call of it does."""

    def __init__(self, step: TrainingStep) -> None:
        self.units, self.wait, self.device = step.units, step.wait, step.device
        with Products() as products:
            step()
        self._calls = [(_call(a, b, step.device), count) for (a, b), count in products.counted.items()]

    def __call__(self) -> None:
        for product, count in self._calls:
            for _ in range(count):
                product()

    def numbers(self) -> dict[str, float]:
        return {"products": float(sum(count for _, count in self._calls))}


def _factor(x: Tensor) -> Factor:
    return Factor(tuple(x.shape), x.stride(-1) != 1 and x.stride(-2) == 1, x.dtype)


def _call(a: Factor, b: Factor, device: torch.device) -> Callable[[], Tensor]:
    left, right = _random(a, device), _random(b, device)
    out = left @ right
    multiply: Callable[..., Tensor] = torch.mm if left.ndim == 2 else torch.bmm
    return lambda: multiply(left, right, out=out)


def _random(factor: Factor, device: torch.device) -> Tensor:
    *batch, rows, columns = factor.shape
    shape = (*batch, columns, rows) if factor.transposed else factor.shape
    x = torch.randn(shape, device=device).to(factor.dtype)
    return x.mT if factor.transposed else x
