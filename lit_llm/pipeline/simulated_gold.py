"""The simulated annotators' rule as gold reward: it says what those meant, and nothing of what people mean."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

from lit_llm.pipeline.human_feedback import SIMULATED

log = logging.getLogger("lit_llm")

RULE = "lit_llm.feedback.rule.reward"
HOW = (
    "gold reward: none. The rankings are people's, and the simulated annotators' rule says nothing of what people "
    "mean: the report shows the learned reward alone. For a gold reward train a second reward model on the other half "
    "of the rankings (train.py stage=reward_modeling data.half=second, and here stages.reward_modeling.data.half=first)"
    ", then add ~stages.ppo.stage.gold '+stages.ppo.stage.gold={_target_: lit_llm.rewards.learned.LearnedReward, "
    "folder: FOLDER}', or of several: {_target_: lit_llm.rewards.ensemble.Ensemble, folders: [FOLDER, FOLDER]}"
)


def is_rule(node: Any) -> bool:
    return isinstance(node, Mapping | DictConfig) and node.get("_target_") == RULE


def without_rule(cfg: DictConfig) -> DictConfig:
    """A pipeline's configuration; with people's rankings one in which that rule judges nothing.

    A gold reward of one's own stays, and best-of-n, where the rule was to judge it, is judged by the first stage's.
    """
    if cfg.rankings == SIMULATED:
        return cfg
    found = copy.deepcopy(cfg)
    with open_dict(found):
        dropped = [name for name, config in found.stages.items() if _drop(config)]
        own = [config.stage.gold for config in found.stages.values() if config.stage.get("gold") is not None]
        if is_rule(found.best_of_n.gold):
            found.best_of_n.gold = own[0] if own else None
            dropped.append("best_of_n")
    if dropped and not own:
        log.info("%s", HOW)
    return found


def _drop(config: DictConfig) -> bool:
    """Takes the rule out of a stage; whether it was there."""
    rules = [name for name, node in config.evaluation.scorers.items() if is_rule(node)]
    for name in rules:
        del config.evaluation.scorers[name]
    gold = is_rule(config.stage.get("gold"))
    if gold:
        config.stage.gold = None
    return gold or bool(rules)
