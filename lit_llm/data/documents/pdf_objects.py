"""A PDF's objects as values, and matrices that say where on a page something is (ISO 32000-2, section 8.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Matrix = tuple[float, float, float, float, float, float]
UNIT: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def value_of(value: Any) -> Any:
    """What a reference refers to; any other value itself."""
    return value.get_object() if hasattr(value, "get_object") else value


def held(value: Any, key: Any) -> Any:
    """What a dictionary has under a key; None where it is none or has none."""
    value = value_of(value)
    return value.get(key) if isinstance(value, dict) else None


def numbers(operands: Sequence[Any], count: int) -> list[float]:
    found = [float(one) if isinstance(one, int | float) else 0.0 for one in operands[:count]]
    return found + [0.0] * (count - len(found))


def matrix_of(operands: Any) -> Matrix:
    a, b, c, d, e, f = numbers(list(operands), 6)
    return a, b, c, d, e, f


def times(m: Matrix, n: Matrix) -> Matrix:
    """First ``m``, then ``n``."""
    return (
        m[0] * n[0] + m[1] * n[2], m[0] * n[1] + m[1] * n[3], m[2] * n[0] + m[3] * n[2],
        m[2] * n[1] + m[3] * n[3], m[4] * n[0] + m[5] * n[2] + n[4], m[4] * n[1] + m[5] * n[3] + n[5],
    )  # fmt: skip
