"""What happens when a loss or a gradient is not a finite number. The stage has already dropped the update."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import lightning as L

from lit_llm.callbacks.options import NumericsOptions
from lit_llm.errors import UserError
from lit_llm.runtime.lightning_loops import is_logging_step

log = logging.getLogger(__name__)


class Numerics(L.Callback):
    """Counts dropped updates as ``train/skipped_updates`` and names their batch.

    Options: ``NumericsOptions``.
    """

    Options: ClassVar[type[NumericsOptions]] = NumericsOptions

    def __init__(self, options: NumericsOptions | None = None, **values: Any) -> None:
        self.options = NumericsOptions.of(options, values)
        self.skipped, self._last_step, self._in_a_row = 0, -2, 0

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_bad_update(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: float, norm: float) -> None:  # noqa: ARG002
        """Called by the stage in place of an update."""
        step = trainer.global_step
        self.skipped += 1
        self._in_a_row = self._in_a_row + 1 if step == self._last_step + 1 else 1
        self._last_step = step
        where = f"step {step} (epoch {trainer.current_epoch}, batch {trainer.fit_loop.epoch_loop.batch_idx})"
        found = f"loss {loss:g}, gradient norm {norm:g}"
        if self.options.on_bad_update == "stop":
            raise UserError(
                f"{where}: {found}; stopped before the update, as callbacks.numerics.on_bad_update=stop says"
            )
        if self._in_a_row >= self.options.max_in_a_row:
            raise UserError(f"{where}: {found}; {self._in_a_row} updates in a row dropped: try a smaller optimizer.lr")
        log.warning("%s: %s; update dropped (%d so far)", where, found, self.skipped)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # noqa: ARG002
        if self.skipped and is_logging_step(trainer):
            pl_module.log("train/skipped_updates", float(self.skipped))
