"""Stage 4: conversations: answer a person's question through the chat template."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages.supervised import SupervisedStage


class InstructionTuning(SupervisedStage):
    """All weights, or LoRA adapters with ``lora_rank`` above 0; only responses are trained, end tokens included."""

    name: ClassVar[str] = "instruction_tuning"
