"""Stage 4: conversations: answer a person's question through the chat template."""

from __future__ import annotations

from typing import ClassVar

from lit_llm.stages import supervised
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import InstructionTuningOptions


class InstructionTuning(LanguageStage):
    """All weights, or LoRA adapters with ``lora_rank`` above 0; only responses are trained, end tokens included."""

    Options: ClassVar[type[InstructionTuningOptions]] = InstructionTuningOptions
    name: ClassVar[str] = "instruction_tuning"
    options: InstructionTuningOptions

    def prepare(self) -> None:
        supervised.prepare(self, self.options)
