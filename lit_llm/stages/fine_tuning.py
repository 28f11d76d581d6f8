"""Stage 3: source to target pairs: a task, in one or several rounds by ``init_from``."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages.supervised import SupervisedStage


class FineTuning(SupervisedStage):
    """All weights, or LoRA adapters with ``lora_rank`` above 0; only responses are trained, end tokens included."""

    name: ClassVar[str] = "fine_tuning"
    default_lr: ClassVar[float] = 2e-4
