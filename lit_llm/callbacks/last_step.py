"""The last step of a run: its weights are always validated, however often a run validates on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L

from lit_llm.callbacks.checkpoints import is_last_step
from lit_llm.callbacks.steps import is_trial, step_ended


class LastStep(L.Callback):
    """Ends the run at its last step as an early stop, which Lightning follows by a validation.

    ``begun``: called with the run's folder before the first step.
    """

    def __init__(self, begun: Callable[[Path], None] | None = None) -> None:
        self.begun = begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self.begun is not None:
            self.begun(Path(trainer.default_root_dir))

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:  # noqa: ARG002
        if not is_trial(trainer) and step_ended(trainer) and is_last_step(trainer):
            trainer.should_stop = True
