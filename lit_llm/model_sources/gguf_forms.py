"""How llama.cpp lays a tensor out, beside Hugging Face's files, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
AS_IT_IS = "as it is"
STACKED = "stacked"  # the matrices of a layer's experts are one tensor


class Heads(NamedTuple):
    queries: int
    keys: int


class Form(NamedTuple):
    """``there``: from the folder's tensors to llama.cpp's one; ``back``: the way back, as many as there were."""

    there: Callable[[Sequence[Array], Heads], Array]
    back: Callable[[Array, Heads], list[Array]]
    computes: bool = False  # the numbers are others, and not only in another order


def halves(pairs: Array, heads: int) -> Array:
    """Rows (heads x width, ...) from llama.cpp's order, pairs of neighbours, to Hugging Face's, two halves."""
    rows = pairs.shape[0]
    return pairs.reshape(heads, rows // heads // 2, 2, *pairs.shape[1:]).swapaxes(1, 2).reshape(pairs.shape)


def neighbours(rows: Array, heads: int) -> Array:
    """The way back of ``halves``."""
    count = rows.shape[0]
    return rows.reshape(heads, 2, count // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _turned(count: Callable[[Heads], int]) -> Form:
    """Rows of a head from two halves to neighbouring pairs."""
    return Form(
        lambda parts, heads: neighbours(parts[0], count(heads)), lambda whole, heads: [halves(whole, count(heads))]
    )


def _by_part(parts: Sequence[Array], heads: Heads) -> Array:
    """Rows that stand head by head, each head's q, k and v together, as all of q, of k and of v."""
    [rows] = parts
    return rows.reshape(heads.queries, 3, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def _by_head(rows: Array, heads: Heads) -> list[Array]:
    return [rows.reshape(3, heads.queries, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)]


FORMS: Mapping[str, Form] = {
    AS_IT_IS: Form(lambda parts, _: parts[0], lambda whole, _: [whole]),
    "query pairs": _turned(lambda heads: heads.queries),
    "key pairs": _turned(lambda heads: heads.keys),
    "one more": Form(lambda parts, _: parts[0] + np.float32(1), lambda whole, _: [whole - np.float32(1)], True),
    "head by head": Form(_by_part, _by_head),
    "transposed": Form(lambda parts, _: parts[0].T, lambda whole, _: [whole.T]),  # a vector stays as it is
    STACKED: Form(lambda parts, _: np.stack(parts), lambda whole, _: list(whole)),
}
