"""When checkpoints are written, and which are kept. How they are written is ``checkpointing``'s."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lit_llm.callbacks.options import CheckpointsOptions
from lit_llm.checkpointing import atomic
from lit_llm.checkpointing.atomic import AtomicCheckpointIO
from lit_llm.checkpointing.background import BackgroundWriter
from lit_llm.checkpointing.resume import CHECKPOINTS, PATTERN, checkpoint_name
from lit_llm.checkpointing.signals import Interrupted, StopSignals
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import written_atomically
from lit_llm.runtime.distributed import gathered
from lit_llm.runtime.lightning_loops import is_trial, run_ends, step_ended, steps_done

log = logging.getLogger("lit_llm")

BEST = "best.ckpt"


class Checkpoints(Checkpoint):
    """Writes ``checkpoints/step-*.ckpt`` in the run folder (the Trainer's ``default_root_dir``) at steps' ends only.

    Lightning's ModelCheckpoint can save in the middle of an accumulation window, and removes the old file before
    it knows that the new one is whole. SIGTERM and SIGINT stop the run at the next step's end with a checkpoint.

    One that is written in the background (``asynchronous``) and cannot be, fails the run in every process at the end of
    the next step; whatever ends training waits for it.

    Options: ``CheckpointsOptions``.
    """

    Options: ClassVar[type[CheckpointsOptions]] = CheckpointsOptions

    def __init__(self, options: CheckpointsOptions | None = None, **values: Any) -> None:
        self.options = CheckpointsOptions.of(options, values)
        self.best = math.inf
        self._saved_step, self._saved_time = -1, time.monotonic()
        self._signals = StopSignals()
        self._anew = False  # begun at step 0: what lies in the folder is not this run's
        self._whole: dict[Path, list[list[int]]] = {}
        self._writer = BackgroundWriter() if self.options.asynchronous else None
        self._unconfirmed: Path | None = None  # being written in the background

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: ARG002
        """A folder that cannot be written to is found out before hours of compute, not after."""
        stock = stage == "fit" and not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        if stock and self._writer is not None:
            raise UserError("callbacks.checkpoints.asynchronous: true; needs Trainer(plugins=[AtomicCheckpointIO()])")
        if stage == "fit" and trainer.is_global_zero and not is_trial(trainer):
            with written_atomically(self.folder(trainer) / ".probe") as file:
                file.write(b"writable")
            (self.folder(trainer) / ".probe").unlink()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_step, self._saved_time = steps_done(trainer), time.monotonic()
        self._anew = self._saved_step == 0
        self._check_monitor(pl_module)
        # Until training ends, not until teardown: by then the Trainer has put back the handlers from before the run,
        # and its own, which was there before ours, would take their place. It ignores SIGTERM, and holds the Trainer.
        self._signals.listen()

    def _check_monitor(self, stage: Any) -> None:
        """A number that validation cannot log is refused before the first step, as far as it can be told."""
        if self.options.monitor is None or not hasattr(stage, "validation_names"):
            return
        groups = [f"val/{name}/" for name in stage.validation_names()]
        if self.options.monitor != "val/loss" and not self.options.monitor.startswith(tuple(groups)):
            known = ", ".join(["val/loss", *(f"{group}..." for group in groups)])
            raise UserError(
                f"callbacks.checkpoints.monitor: {self.options.monitor}; nothing logs it; there are {known}"
            )

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if not step_ended(trainer):
            return
        signum = self._agreed_signal(trainer)
        if signum or self._is_due(trainer):
            self._save(trainer)
        if signum:
            self._wait(trainer)
            raise Interrupted(signum)
        if self._writer is not None and not self._writer.busy and self._writer.failure is None:
            self._confirm(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self.options.monitor is None or trainer.sanity_checking or is_trial(trainer):
            return
        if self.options.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            said = f"callbacks.checkpoints.monitor: {self.options.monitor}; nothing logs it; there are {known}"
            if run_ends(trainer):  # what was trained is not thrown away for it
                log.warning("%s", said)
                return
            raise UserError(said)
        value = float(trainer.callback_metrics[self.options.monitor])
        if value < self.best:
            self.best = value
            self._write(trainer, self.folder(trainer) / BEST, weights_only=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        signum = self._agreed_signal(trainer)  # came after the last step, in a validation
        if self.options.at_end or signum:
            self._save(trainer)
        self._wait(trainer)
        self._signals.restore()
        if signum := signum or self._agreed_signal(trainer):  # the second: came meanwhile
            self._save(trainer)  # nothing where it is done
            self._wait(trainer)
            raise Interrupted(signum)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """What is being written is written to its end: it is what the run goes on from."""
        self._signals.restore()
        if self._writer is not None:
            try:
                self._writer.wait()
            except BaseException as error:  # the exception that is on its way says why the run ends
                log.warning("%s", str(error).split("\n", 1)[0])

    @staticmethod
    def folder(trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / CHECKPOINTS

    def _is_due(self, trainer: L.Trainer) -> bool:
        if self.options.at_end and run_ends(trainer):
            return True  # saved now, not afterwards, a longer run can go on from it
        if self.options.every_n_steps is not None and steps_done(trainer) % self.options.every_n_steps == 0:
            return True
        if self.options.every_minutes is None:
            return False
        due = time.monotonic() - self._saved_time >= 60 * self.options.every_minutes
        return bool(trainer.strategy.broadcast(due))  # clocks differ: all processes must save together

    def _agreed_signal(self, trainer: L.Trainer) -> int:
        """The signal that any process received, or 0: all must stop at the same step.

        Raises the error of what was written in the background and failed, in every process alike.
        """
        signum, failed = self._signals.received or 0, self._writer is not None and self._writer.failure is not None
        if trainer.world_size > 1:
            told = torch.tensor([signum, failed], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            signum, failed = told.tolist()
        if failed:
            self._wait(trainer)
        return signum

    def _save(self, trainer: L.Trainer) -> None:
        step = steps_done(trainer)
        if step == self._saved_step or is_trial(trainer):
            return
        path = self.folder(trainer) / checkpoint_name(step)
        if trainer.is_global_zero and self._anew:
            keep_aside(path)
        self._write(trainer, path, weights_only=False)
        self._saved_step, self._saved_time, self._unconfirmed = step, time.monotonic(), path
        if self._writer is None:
            self._confirm(trainer)

    def _write(self, trainer: L.Trainer, path: Path, weights_only: bool) -> None:
        self._wait(trainer)
        trainer.save_checkpoint(path, weights_only=weights_only, storage_options=self._writer)

    def _wait(self, trainer: L.Trainer) -> None:
        """For what is written in the background. Raises the error that it met in any process, in all of them."""
        if self._writer is None:
            return
        error: BaseException | None = None
        try:
            self._writer.wait()
        except Exception as met:
            error = met
        if first := next((each for each in gathered(error, trainer.world_size) if each is not None), None):
            raise first
        self._confirm(trainer)

    def _confirm(self, trainer: L.Trainer) -> None:
        """The newest checkpoint is written: those before it that are too many are removed."""
        path, self._unconfirmed = self._unconfirmed, None
        if path is not None and trainer.is_global_zero:
            self._whole[path] = atomic.identity_of(path)  # its bytes were hashed as they were written
            good = [each for each in sorted(self.folder(trainer).glob(PATTERN)) if self._verifies(each)]
            for old in good[: -self.options.keep]:
                trainer.strategy.remove_checkpoint(old)

    def _verifies(self, path: Path) -> bool:
        """Whether a checkpoint is whole; one that was, and was not touched since, is not read again."""
        if atomic.manifest_path(path).is_file() and self._whole.get(path) == atomic.identity_of(path):
            return True
        if atomic.problem_with(path) is not None:
            return False
        self._whole[path] = atomic.identity_of(path)
        return True


def keep_aside(path: Path) -> None:
    """Rename a checkpoint that cannot be read, where a new one is about to take its name: ``....ckpt.unreadable``."""
    problem = atomic.problem_with(path) if path.exists() else None
    if problem is None:
        return
    number, aside = 1, path.with_name(f"{path.name}.unreadable")
    while aside.exists():
        number, aside = number + 1, path.with_name(f"{path.name}.unreadable.{number}")
    path.rename(aside)
    log.warning("%s: %s; kept as %s", path, problem, aside.name)
