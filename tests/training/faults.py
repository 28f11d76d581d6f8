"""What one process of a run meets in the middle of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L

from lit_llm.errors import UserError

KINDS = {
    "row": UserError("rows.jsonl:7: is no comparison"),
    "memory": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
}


class Fault(L.Callback):
    """Raises one of ``KINDS`` in the process ``rank`` before a step, and notes when."""

    def __init__(self, kind: str, rank: int, step: int = 3) -> None:
        self.kind, self.rank, self.step = kind, rank, step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            (Path(trainer.default_root_dir) / "faulted").write_text(str(time.time()))
            raise KINDS[self.kind]
