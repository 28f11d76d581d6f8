"""Invariant: no setting of a family's config.json is ignored: with another value the logits are transformers' all the
same, or the file is refused.

The settings are those of transformers' own class, so that one that a later version adds is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.huggingface import load_language_model
from lit_llm.errors import UserError
from tests.family_models import MODELS, rows, saved

transformers = pytest.importorskip("transformers")

OF_THE_FILE = {"architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype"}
ASKED_FOR = ("head_dim", "sliding_window", "layer_types", "partial_rotary_factor", "rope_theta", "rope_scaling")
"""By code that families share, whether or not a class has them."""
ROPE = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
]


def others(key: str, value: Any) -> Iterator[Any]:
    """Other values that a setting may have; null too."""
    if "rope" in key and not isinstance(value, int | float | list):
        yield from ROPE
    elif "act" in key and isinstance(value, str):
        yield from ("gelu", "gelu_new", "relu", "silu", "tanh")
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 2 * value, max(1, value // 2))
    elif isinstance(value, float):
        yield from (2 * value + 0.1, value / 2)
    elif isinstance(value, list):
        yield value[::-1]
    elif value is None:
        yield from (2, 16, 0.5, True, [1, 0, 1, 0], ["full_attention", "sliding_attention"] * 2)
    if value is not None:
        yield None


def theirs(folder: Path, tokens: torch.Tensor) -> torch.Tensor | None:
    """None for a file that transformers does not read, or of which the weights are other ones."""
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, dtype=torch.float32
        )
        if told["missing_keys"] or told["mismatched_keys"] or told["unexpected_keys"]:
            return None
        with torch.no_grad():
            found: torch.Tensor = model.eval()(tokens).logits
    except Exception:  # of its checks, of shapes
        return None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_setting_is_ignored(name: str, tmp_path: Path) -> None:
    saved(MODELS[name], tmp_path)
    path, tokens = tmp_path / "config.json", torch.cat(rows(40, 40))
    raw = json.loads(path.read_text())
    kind = getattr(transformers, f"{MODELS[name].config}Config")
    known = {*kind().to_dict(), *kind.attribute_map, *ASKED_FOR, *raw} - OF_THE_FILE
    read = 0
    for key in sorted(known):
        own = raw.get(kind.attribute_map.get(key, key))  # by another name the class takes it too
        for other in others(key, own):
            path.write_text(json.dumps(raw | {key: other}))
            try:
                ours = load_language_model(tmp_path)
            except UserError:
                continue
            expected = theirs(tmp_path, tokens)
            if expected is None:
                continue
            with torch.no_grad():
                found = ours.logits(ours(tokens))
            assert found.shape == expected.shape and (found - expected).abs().max() < 1e-4, f"{key}={other!r}"
            read += 1
    assert read > 40
