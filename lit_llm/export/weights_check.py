"""Every weight of an exported file beside the one it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lit_llm.export.gguf_file import Model
from lit_llm.export.rounding import weight_limits
from lit_llm.model_sources.gguf_header import read_head
from lit_llm.model_sources.gguf_tensors import floats, type_of


def worst_weight(file: Path, model: Model) -> tuple[float, str, float]:
    """(largest error as a part of what its type allows, its tensor, root mean square of all errors by that of the
    weights). Infinity where a tensor is missing or of another shape."""
    head, data = read_head(file), np.memmap(file, np.uint8, "r")
    worst, name, errors, squares = 0.0, "none", 0.0, 0.0
    for ours, source in model.tensors.items():
        record = head.tensors.get(ours)
        if record is None or record.shape != source.shape:
            return float("inf"), ours, float("inf")
        kept, wanted = floats(record, data), source.read(model.config)
        error = np.abs(kept.astype(np.float64) - wanted)
        limits = weight_limits(wanted, type_of(record))
        over = np.where(error > 0, error / np.maximum(limits, 1e-300), 0.0).max(initial=0.0)
        if not over <= worst:  # NaN too
            worst, name = float(over), ours
        errors, squares = (
            errors + float(np.square(error).sum()),
            squares + float(np.square(wanted.astype(np.float64)).sum()),
        )
    return worst, name, float(np.sqrt(errors / max(squares, 1e-300)))
