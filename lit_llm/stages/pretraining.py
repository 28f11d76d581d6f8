"""Stage 1: predict the next token of raw text."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages.language import LanguageStage


class Pretraining(LanguageStage):
    """Trains every weight from its random start (or from ``init_from``) on packed documents."""

    name: ClassVar[str] = "pretraining"
