"""Stage 1: predict the next token of raw text."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import PretrainingOptions


class Pretraining(LanguageStage):
    """Trains every weight from its random start (or from ``init_from``) on packed documents."""

    Options: ClassVar[type[PretrainingOptions]] = PretrainingOptions
    name: ClassVar[str] = "pretraining"
    from_scratch: ClassVar[bool] = True
