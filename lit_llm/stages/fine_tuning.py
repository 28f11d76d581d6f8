"""Stage 3: source to target pairs: a task, in one or several rounds by ``init_from``."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages import supervised
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import FineTuningOptions


class FineTuning(LanguageStage):
    """All weights, or LoRA adapters with ``lora_rank`` above 0; only responses are trained, end tokens included."""

    Options: ClassVar[type[FineTuningOptions]] = FineTuningOptions
    name: ClassVar[str] = "fine_tuning"
    default_lr: ClassVar[float] = 2e-4
    options: FineTuningOptions

    def prepare(self) -> None:
        supervised.prepare(self, self.options)
