"""Which losses a stage takes: those of comparisons and those of scores are given other things."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lit_llm.config.conf_files import conf_folder, options
from lit_llm.config.signatures import options_of

LOSS_OF = {  # what the loss of a stage is given first
    "lit_llm.stages.preference_optimization.PreferenceOptimization": "pairs",
    "lit_llm.stages.reward_modeling.RewardModeling": "scores",
}


def faults(prefix: str, stage: Any) -> Iterator[str]:
    """A loss of comparisons in a reward model's stage, or the other way round."""
    node = stage.get("loss") if isinstance(stage, Mapping) else None
    wanted = LOSS_OF.get(stage["_target_"]) if isinstance(node, Mapping) and "_target_" in stage else None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    loss = options_of(target) if wanted is not None and isinstance(target, str) else None
    if loss is not None and loss.GIVEN[:1] != (wanted,):
        known = ", ".join(sorted(name for name in options("loss") if _first_of(name) == wanted))
        yield f"{prefix}stage.loss._target_={target}: is no loss of this stage; its own are loss={known}"


def _first_of(loss: str) -> str | None:
    text = (conf_folder() / f"loss/{loss}.yaml").read_text(encoding="utf-8")
    found = re.search(r"^_target_: (\S+)", text, re.MULTILINE)
    kind = options_of(found[1]) if found else None
    return kind.GIVEN[0] if kind is not None else None
