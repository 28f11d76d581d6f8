"""What ends a pipeline: the ledger over all stages, the same questions answered by each, the page, the next commands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("lit_llm")


def close(config: Mapping[str, Any], folder: Path, stages: Mapping[str, Path]) -> None:
    """Write ledger.json, answers.json and report.html; say where all is."""
    from lit_llm.report.page import write_report
    page = write_report(folder)
    log.info("report: %s", page)
