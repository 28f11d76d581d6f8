"""What config.json keeps of a score head beside its weights: the normalisation, or the class and the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lit_llm.backbone.families import write_config
from lit_llm.backbone.models import ScoreModel, Shape
from lit_llm.backbone.transformers_config import TransformersConfig, made, quiet
from lit_llm.errors import UserError

NORMALISATION = {"mean": "reward_mean", "std": "reward_std"}  # in config.json, since theirs has no such tensors


def check_can_be_saved(config: Shape) -> None:
    """Raises UserError where no class of transformers holds a score head of the family: nobody could read it."""
    if not isinstance(config, TransformersConfig):
        write_config(config, "score")
        return
    with torch.device("meta"), quiet():
        made(config, "score")


def head_settings(model: ScoreModel) -> dict[str, Any]:
    """For config.json."""
    settings: dict[str, Any] = {
        "reward_normalization": {key: float(getattr(model, name)) for key, name in NORMALISATION.items()}
    }
    if model.label is not None:
        settings |= {"problem_type": "multi_label_classification", "decision_threshold": model.threshold}
        settings |= {"id2label": {"0": model.label}, "label2id": {model.label: 0}}
    return settings


def read_head(model: ScoreModel, raw: dict[str, Any], path: Path) -> None:
    """Puts what the config.json at ``path`` tells into the model. Raises UserError for values that cannot be."""
    device = model.backbone.embed_tokens.weight.device
    for key, name in NORMALISATION.items():
        setattr(model, name, torch.tensor(_normalisation(raw, path, key), device=device))
    model.label, model.threshold = _classifier(raw, path)


def _normalisation(raw: dict[str, Any], path: Path, key: str) -> float:
    given = raw.get("reward_normalization", {})
    value = given.get(key, float(key == "std")) if isinstance(given, dict) else None
    if not isinstance(value, int | float) or (key == "std" and not value > 0):
        raise UserError(f"{path}: reward_normalization={given!r} should be an object with mean and std, std above 0")
    return float(value)


def _classifier(raw: dict[str, Any], path: Path) -> tuple[str | None, float]:
    """The class that a classifier of one label tells and its threshold; (None, 0.5) for a reward model.

    ``multi_label_classification`` is what transformers calls a sigmoid for each label, of which there is one here.
    """
    if raw.get("problem_type") != "multi_label_classification":
        return None, 0.5
    names, threshold = raw.get("id2label"), raw.get("decision_threshold", 0.5)
    if not isinstance(names, dict) or not isinstance(names.get("0"), str) or not names["0"]:
        raise UserError(f'{path}: id2label={names!r} should name what the classifier tells, as {{"0": "flagged"}}')
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise UserError(f"{path}: decision_threshold={threshold!r} should be a probability, 0 to 1")
    return names["0"], float(threshold)
