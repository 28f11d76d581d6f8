"""A callback that says when the first optimizer step was done: what ``startup`` waits for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L


class FirstStep(L.Callback):
    """Writes {"at": seconds since the epoch, "cpu": seconds of this process} into ``file`` after the first step."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_step == 1 and not self.file.exists():
            written = self.file.with_suffix(".part")
            written.write_text(json.dumps({"at": time.time(), "cpu": time.process_time()}))
            written.replace(self.file)
