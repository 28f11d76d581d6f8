"""Lightning's training loops, with an exact place to go on from and with validation at the ends of steps alone.

Lightning 2.6 loads the place of the loader only where nothing asked for the number of batches before (a schedule by
epochs does), guesses from counters where in an epoch a checkpoint was written, forgets a validation that was due then,
and may end or validate a run in the middle of an accumulation window. Here a checkpoint stands for the end of an
optimizer step, whatever limits the run:

- in an epoch the loader and the counters go on behind the batches that were trained; at its end the next one begins;
- a validation that is due at that step, and was not finished, is taken before anything else;
- the last step of a run is validated, and no step twice.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loops.fit_loop import RestartStage, _FitLoop
from lightning.pytorch.loops.progress import _Progress
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from lit_llm.errors import UserError


def install(trainer: L.Trainer) -> L.Trainer:
    """Gives a trainer that has not run yet these loops in place of Lightning's; returns it."""
    given = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, min_epochs=given.min_epochs, max_epochs=given.max_epochs)
    epoch_loop = EpochLoop(trainer, min_steps=given.epoch_loop.min_steps, max_steps=given.epoch_loop.max_steps)
    trainer.fit_loop.epoch_loop = epoch_loop
    return trainer


def leave_inference_mode(trainer: L.Trainer) -> None:
    """Has the trainer evaluate without gradients, but in no inference mode, whose tensors training cannot use."""
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        loop.inference_mode = False


def steps_done(trainer: L.Trainer) -> int:
    """Optimizer steps so far; batches for a stage that makes its own updates (a rollout of PPO is one step)."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def run_ends(trainer: L.Trainer) -> bool:
    """Whether training ends with the step that was just made: by steps, by epochs, or because something stopped it."""
    loop, epochs = trainer.fit_loop, trainer.max_epochs
    if trainer.should_stop and loop._can_stop_early:
        return True
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    over = loop.epoch_loop._num_ready_batches_reached()
    return epochs not in (None, -1) and over and loop.epoch_progress.current.ready >= epochs


def step_ended(trainer: L.Trainer) -> bool:
    """Whether the micro-batch that just ended was the last of its accumulation window.

    Lightning calls ``on_train_batch_end`` for every micro-batch.
    """
    return not trainer.fit_loop._should_accumulate()


def logs_are_due(trainer: L.Trainer) -> bool:
    """Whether the step at hand is one of every ``log_every_n_steps``."""
    return trainer._logger_connector.should_update_logs


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether the step that just ended is one of every ``log_every_n_steps``."""
    return step_ended(trainer) and logs_are_due(trainer)


def is_trial(trainer: L.Trainer) -> bool:
    """Whether this is a run of a few batches that keeps nothing (``fast_dev_run``)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def validation_is_next(trainer: L.Trainer) -> bool:
    """Whether a validation follows the batch that just ended."""
    loop = trainer.fit_loop
    begun = loop.epoch_loop.batch_progress.total.ready > 0
    return begun and loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


class FitLoop(_FitLoop):
    """The loop over epochs. ``epoch_loop`` is an ``EpochLoop``."""

    epoch_loop: EpochLoop

    def run(self) -> None:
        resumed = self._loaded_from_state_dict
        self.setup_data()
        if self.trainer.limit_train_batches == 0 or self.max_batches == 0 or (self.done and not resumed):
            return
        if resumed:
            self._load_place()
        self.reset()
        self.on_run_start()
        if resumed:
            self.epoch_loop.validate_if_due()
        while not self.done:
            try:
                self.on_advance_start()
                self.advance()
                self.on_advance_end()
            except StopIteration:
                break
            finally:
                self.on_iteration_done()
        self._restarting = False
        self.on_run_end()

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """The counters as they stand between two steps of a run that was not stopped.

        Raises UserError where the run has done more epochs than it is to do.
        """
        super().load_state_dict(state_dict, prefix)
        batches, begun = self.epoch_loop.batch_progress, self.epoch_progress.current.ready
        _complete(batches)
        in_epoch = not batches.is_last_batch
        for count in (self.epoch_progress.total, self.epoch_progress.current):
            count.ready = count.started = begun  # type: ignore[attr-defined]
            count.processed = count.completed = begun - in_epoch  # type: ignore[attr-defined]
        if self.max_epochs not in (None, -1) and begun - in_epoch > self.max_epochs:
            done = begun - in_epoch
            raise UserError(
                f"trainer.max_epochs={self.max_epochs}: the run has trained {done} epochs already; give more"
            )
        self.epoch_loop.resumed = in_epoch
        for loop in (self, self.epoch_loop, self.epoch_loop.val_loop):
            loop._restarting = False  # it goes on: Lightning need not find out what is to be done again

    def _load_place(self) -> None:
        """The loaders' places, also where they were made before the checkpoint was read."""
        assert self._combined_loader is not None and self._data_fetcher is not None
        if self._combined_loader_states_to_load:
            self._combined_loader._load_state_dicts(self._combined_loader_states_to_load)
            self._combined_loader_states_to_load = []
            iter(self._data_fetcher)
        seen = [getattr(loader, "batches_seen", None) for loader in self._combined_loader.flattened]
        if self.epoch_loop.resumed and seen and seen[0] is not None:  # on more devices fewer batches
            self.epoch_loop.set_batches(seen[0])

    def reset(self) -> None:
        if not self._loaded_from_state_dict:
            super().reset()
            return
        torch.set_grad_enabled(True)
        self._restart_stage = RestartStage.RESTARTED_MID_EPOCH if self.epoch_loop.resumed else RestartStage.NONE


class EpochLoop(_TrainingEpochLoop):
    """The loop over an epoch's batches."""

    def __init__(self, trainer: L.Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.resumed = False  # in the middle of an epoch
        self._validated_step = -1

    def set_batches(self, number: int) -> None:
        """How many batches of the epoch under way are done."""
        current = self.batch_progress.current
        current.ready = current.started = current.processed = current.completed = number  # type: ignore[attr-defined]

    def reset(self) -> None:
        if not self.resumed:
            super().reset()
        self.resumed = False

    @property
    def done(self) -> bool:
        """Whoever asks for the end gets it with a whole step: what a window has added up is not thrown away."""
        return not self._should_accumulate() and super().done

    def validate_if_due(self) -> None:
        """Takes the validation that belongs to the step of the checkpoint, before the next step."""
        trainer = self.trainer
        self._batches_that_stepped = steps_done(trainer)
        if not self._should_check_val_fx(None):
            return
        trainer.validating = True
        self.val_loop.run()
        trainer.training = True
        self._validated_step = steps_done(trainer)

    def on_advance_end(self, data_fetcher: Any) -> None:
        due = self._should_check_val_fx(data_fetcher)
        super().on_advance_end(data_fetcher)
        if due:
            self._validated_step = steps_done(self.trainer)

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:  # noqa: ARG002
        """Whether the step just made is to be validated: every so many steps, at shares of an epoch, and the last."""
        trainer, every = self.trainer, self.trainer.val_check_batch
        if not trainer.enable_validation or self._should_accumulate():
            return False
        step = steps_done(trainer)
        if step == self._validated_step:
            return False
        if run_ends(trainer):
            return True
        window = trainer.accumulate_grad_batches
        if trainer.check_val_every_n_epoch is None:
            return bool(step % max(1, int(every) // window) == 0)
        if every == float("inf"):
            return self._num_ready_batches_reached()
        done = self.batch_progress.current.ready
        return bool(done // every > (done - 1) // window * window // every)  # a share may end within a window

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validated_step": self._validated_step}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._validated_step = state_dict.get("validated_step", -1)


def _complete(progress: _Progress) -> None:
    """A checkpoint is written before the batch that it follows counts as completed."""
    for count in (progress.total, progress.current):
        count.completed = count.ready
