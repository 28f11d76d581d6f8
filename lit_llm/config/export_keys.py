"""``export`` of a pipeline: whether its last model is written for llama.cpp, and how."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.model_sources.gguf_header import Quantization
from lit_llm.runtime.suggestions import nearest

FOLDER = "export"  # in a pipeline's
LAYOUTS = ("gguf",)
QUANTIZATIONS: tuple[str, ...] = typing.get_args(Quantization)


@dataclass
class ExportConfig:
    """The last model that talks as a GGUF file with its certificate, as ``scripts/export.py`` makes it."""

    to: str | None = None  # gguf; null: nothing is exported
    quantization: str = "f16"  # the type of the matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0
    node_llama_cpp: str | None = None  # folder of the npm package node-llama-cpp; null: ./node_modules


def wrong_export(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that no export takes."""
    for key, known in (("to", LAYOUTS), ("quantization", QUANTIZATIONS)):
        value = values.get(key)
        if value not in known and not (key == "to" and value is None):
            near = f"; did you mean {found}?" if (found := nearest(str(value), known, 0.5)) else ""
            yield f"export.{key}={value}: is not one of {', '.join(known)}{near}"
