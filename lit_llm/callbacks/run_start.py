"""A run has begun: what a failed start leaves behind is cleared, what a run that had begun leaves is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L


class RunStart(L.Callback):
    """Calls ``begun`` with the run's folder before the first step."""

    def __init__(self, begun: Callable[[Path], None]) -> None:
        self.begun = begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self.begun(Path(trainer.default_root_dir))
