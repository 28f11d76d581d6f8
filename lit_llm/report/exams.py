"""The exams of the chain's reward models: whether a policy could learn from them, and how they can be fooled."""

from __future__ import annotations

from lit_llm.report.reading import PipelineRun
from lit_llm.rewards.validation.result import read_exam
from lit_llm.rewards.validation.wording import ExamWords, exam_words


def exams(run: PipelineRun) -> list[tuple[str, ExamWords]]:
    """(stage, its exam) of every model with an exam.json. Raises UserError for a damaged one."""
    found = ((stage.name, read_exam(stage.made)) for stage in run.stages)
    return [(name, exam_words(exam)) for name, exam in found if exam is not None]
