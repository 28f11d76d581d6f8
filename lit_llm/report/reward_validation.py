"""Validation of the chain's reward models: whether a policy could learn from them, and how they can be fooled."""

from __future__ import annotations

from lit_llm.report.reading import PipelineRun
from lit_llm.rewards.validation.result import read_result
from lit_llm.rewards.validation.wording import ValidationTexts, validation_texts


def reward_validations(run: PipelineRun) -> list[tuple[str, ValidationTexts]]:
    """(stage, its validation) of every model with a reward_validation.json. Raises UserError for a damaged one."""
    found = ((stage.name, read_result(stage.made)) for stage in run.stages)
    return [(name, validation_texts(values)) for name, values in found if values is not None]
