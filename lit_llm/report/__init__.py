"""The report: one offline page for a whole pipeline."""

from lit_llm.report.page import write_report

__all__ = ["write_report"]
