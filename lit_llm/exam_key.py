"""What a score depends on, as one hash: scores that lie in a folder are read again only where it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lit_llm.config import digest, plain
from lit_llm.records import Heldout

UNREAD = ("enabled", "before", "objective")  # of cfg.evaluation: they change no score


def weights_hash(model: nn.Module | None) -> str | None:
    """SHA-256 of a model's names, shapes and bytes."""
    if model is None:
        return None
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def settings_hash(cfg: DictConfig, training_answers: Mapping[str, int] | None) -> str:
    """What of a run's configuration, and of what it was trained to say, the scores depend on."""
    values = plain(cfg)
    evaluation = {key: value for key, value in values["evaluation"].items() if key not in UNREAD}
    trainer = {key: values["trainer"][key] for key in ("precision", "accelerator")}
    rewards = [values["stage"].get(name) for name in ("reward", "gold")]
    return digest([evaluation, trainer, rewards, sorted((training_answers or {}).items())])


def set_hash(heldout: Heldout) -> str:
    """The set's kind and items."""
    return digest([heldout.name, heldout.kind, [asdict(item) for item in heldout.items]])


def key_of(heldout: Heldout, *rest: Any) -> str:
    """Of a set, and of all else that its score depends on."""
    return digest([set_hash(heldout), *rest])
