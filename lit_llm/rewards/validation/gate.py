"""No policy learns from a reward model that failed its validation, unless it is told to."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_llm.errors import UserError
from lit_llm.rewards.validation.result import NAME, read_result

log = logging.getLogger(__name__)
ADVICE = "train directly with stage=dpo instead, or set stage.ignore_reward_validation=true"


class RewardValidationFailed(UserError):  # noqa: N818 (it is what happened, as UserError is)
    """A reward model is no better than a rule without a model, or is easily fooled."""


def require_passed(folder: str | Path, ignore: bool = False) -> None:
    """Raises RewardValidationFailed, with the numbers in one line, where the model in ``folder`` failed its validation.

    ``ignore``: warn and go on. A folder without a validation (from elsewhere) gives a warning; nothing is known of it.
    """
    found = read_result(folder)
    if found is None:
        log.warning("%s: has no %s; what its reward is worth is not known", folder, NAME)
    elif not found["passed"]:
        what = f"{folder}: the reward model failed its validation: {'; '.join(map(str, found['reasons']))}"
        if not ignore:
            raise RewardValidationFailed(f"{what}; {ADVICE}")
        log.warning("%s; stage.ignore_reward_validation=true: going on", what)
