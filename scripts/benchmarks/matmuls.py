"""The roofline, measured: the matrix products alone of a contestant's call, run bare on this machine.

Nothing that does these products can be faster. The products are those that the call asks for, written down while it
runs: shapes, layouts and dtypes. Products of one shape follow each other, on factors that are in the cache by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.race import Timed, wait_for
from lit_llm.generation.weights import Product

MATMULS = "matmuls alone"

_FACTORS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "baddbmm_": 1}
"""The products that torch knows, and where the first of their two factors stands."""

_LAYERS = ("linear", "_linear_pointwise")
"""Those of a layer: the second factor is its weight, (out, in)."""


class Factor(NamedTuple):
    shape: tuple[int, ...]
    transposed: bool
    dtype: torch.dtype
    packed: bool = False  # a weight in the order that oneDNN multiplies it in


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products of all that runs inside: ``counted[(Factor, Factor)]``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[tuple[Factor, Factor]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _LAYERS:
            self.counted[_rows(args[0]), _weight(args[1])] += 1
        elif name in _FACTORS:
            first = _FACTORS[name]
            self.counted[_factor(args[first]), _factor(args[first + 1])] += 1
        return func(*args, **(kwargs or {}))


class MatmulsAlone:
    """A contestant that does nothing but the products of ``timed``, as often as one call of it does."""

    def __init__(self, timed: Timed, device: torch.device) -> None:
        self.units, self.device = timed.units, device
        with Products() as products:
            timed()
        self._calls = [(_call(a, b, device), count) for (a, b), count in products.counted.items()]

    def __call__(self) -> None:
        for product, count in self._calls:
            for _ in range(count):
                product()

    def wait(self) -> None:
        wait_for(self.device)

    def numbers(self) -> dict[str, float]:
        return {"products": float(sum(count for _, count in self._calls))}


def _factor(x: Tensor) -> Factor:
    return Factor(tuple(x.shape), x.stride(-1) != 1 and x.stride(-2) == 1, x.dtype)


def _rows(x: Tensor) -> Factor:
    return Factor((x.numel() // x.shape[-1], x.shape[-1]), False, x.dtype)


def _weight(weight: Tensor) -> Factor:
    """As the second factor of ``mm``."""
    turned = not weight.is_mkldnn and weight.stride(-1) != 1
    return Factor((weight.shape[1], weight.shape[0]), not turned, weight.dtype, weight.is_mkldnn)


def _call(a: Factor, b: Factor, device: torch.device) -> Callable[[], Tensor]:
    left, right = _random(a, device), _random(b, device)
    if b.packed:
        layer = Product(right.mT, None, b.dtype, rows=2)  # packed, as it was
        return lambda: layer(left)
    out = left @ right
    multiply: Callable[..., Tensor] = torch.mm if left.ndim == 2 else torch.bmm
    return lambda: multiply(left, right, out=out)


def _random(factor: Factor, device: torch.device) -> Tensor:
    *batch, rows, columns = factor.shape
    shape = (*batch, columns, rows) if factor.transposed else factor.shape
    x = torch.randn(shape, device=device).to(factor.dtype)
    return x.mT if factor.transposed else x
