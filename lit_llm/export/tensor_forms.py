"""How llama.cpp lays a tensor out, beside Hugging Face's files, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_llm.backbone.config import BackboneConfig
from lit_llm.model_sources.gguf_model import halves, neighbours

Array = np.ndarray[Any, Any]


class Form(NamedTuple):
    """``there``: from the folder's tensors to llama.cpp's one; ``back``: the way back, as many as there were."""

    there: Callable[[Sequence[Array], BackboneConfig], Array]
    back: Callable[[Array, BackboneConfig], list[Array]]


def _turned(heads: Callable[[BackboneConfig], int]) -> Form:
    """Rows of a head from two halves to neighbouring pairs."""
    return Form(
        lambda parts, config: neighbours(parts[0], heads(config)), lambda whole, config: [halves(whole, heads(config))]
    )


def _by_part(parts: Sequence[Array], config: BackboneConfig) -> Array:
    """Rows that stand head by head, each head's q, k and v together, as all of q, of k and of v."""
    [rows] = parts
    return rows.reshape(config.num_heads, 3, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def _by_head(rows: Array, config: BackboneConfig) -> list[Array]:
    return [rows.reshape(3, config.num_heads, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)]


FORMS: Mapping[str, Form] = {
    "as it is": Form(lambda parts, _: parts[0], lambda whole, _: [whole]),
    "query pairs": _turned(lambda config: config.num_heads),
    "key pairs": _turned(lambda config: config.num_kv_heads),
    "one more": Form(lambda parts, _: parts[0] + np.float32(1), lambda whole, _: [whole - np.float32(1)]),
    "head by head": Form(_by_part, _by_head),
    "transposed": Form(lambda parts, _: parts[0].T, lambda whole, _: [whole.T]),  # a vector stays as it is
    "stacked": Form(lambda parts, _: np.stack(parts), lambda whole, _: list(whole)),
}
