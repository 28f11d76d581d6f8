"""No policy learns from a reward model that failed its exam, unless it is told to."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_llm.errors import UserError
from lit_llm.rewards.validation.result import NAME, read_exam

log = logging.getLogger(__name__)
ADVICE = "train directly with stage=dpo instead, or set stage.ignore_exam=true"


class ExamFailed(UserError):  # noqa: N818 (it is what happened, as UserError is)
    """A reward model is no better than a rule without a model, or is easily fooled."""


def require_passed(folder: str | Path, ignore: bool = False) -> None:
    """Raises ExamFailed, with the numbers in one line, where the reward model in ``folder`` failed its exam.

    ``ignore``: warn and go on. A folder without an exam (from elsewhere) gives a warning; nothing is known of it.
    """
    found = read_exam(folder)
    if found is None:
        log.warning("%s: has no %s; what its reward is worth is not known", folder, NAME)
    elif not found["passed"]:
        what = f"{folder}: the reward model failed its exam: {'; '.join(map(str, found['reasons']))}"
        if not ignore:
            raise ExamFailed(f"{what}; {ADVICE}")
        log.warning("%s; stage.ignore_exam=true: going on", what)
