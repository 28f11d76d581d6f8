"""The exams of the chain's reward models: whether a policy could learn from them, and how they can be fooled."""

from __future__ import annotations

from lit_llm.evaluation.exam_result import read_exam
from lit_llm.evaluation.exam_words import ExamWords, exam_words
from lit_llm.report.reading import PipelineRun


def exams(run: PipelineRun) -> list[tuple[str, ExamWords]]:
    """(stage, its exam) of every model with an exam.json. Raises UserError for a damaged one."""
    found = ((stage.name, read_exam(stage.made)) for stage in run.stages)
    return [(name, exam_words(exam)) for name, exam in found if exam is not None]
