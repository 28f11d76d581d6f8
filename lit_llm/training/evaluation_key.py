"""What a score depends on, as one hash: scores that lie in a folder are read again only where it is the same."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from lit_llm.config.schema import digest, plain

UNREAD = ("enabled", "before", "objective")  # of cfg.evaluation: they change no score


def settings_hash(cfg: DictConfig, training_answers: Mapping[str, int] | None) -> str:
    """What of a run's configuration, and of what it was trained to say, the scores depend on."""
    values = plain(cfg)
    evaluation = {key: value for key, value in values["evaluation"].items() if key not in UNREAD}
    trainer = {key: values["trainer"][key] for key in ("precision", "accelerator")}
    rewards = [values["stage"].get(name) for name in ("reward", "gold")]
    return digest([evaluation, trainer, rewards, sorted((training_answers or {}).items())])
