"""Ends a run that falls behind the other trials of its study, by what each validation finds."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

from lit_llm.errors import UserError
from lit_llm.runtime.lightning_loops import is_trial, run_ends, steps_done
from lit_llm.training.search import study
from lit_llm.training.search.trial import Pruned, Trial

log = logging.getLogger("lit_llm")


class Pruning(L.Callback):
    """Reports the monitored number after each validation; raises ``Pruned``, in all processes, where a trial is behind.

    The last validation is reported too but ends nothing: the run is done, and what it is compared by is measured then.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._study: Any = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if trainer.sanity_checking or is_trial(trainer):
            return
        name = self.trial.monitor.removeprefix("-")
        if name not in trainer.callback_metrics:
            known = ", ".join(sorted(key for key in trainer.callback_metrics if key.startswith("val/")))
            raise UserError(f"hydra.sweeper.monitor={self.trial.monitor}: nothing logs it; there are {known}")
        value, step = float(trainer.callback_metrics[name]), steps_done(trainer)
        behind = trainer.is_global_zero and self._told(-value if self.trial.monitor.startswith("-") else value, step)
        if trainer.strategy.broadcast(behind) and not run_ends(trainer):
            raise Pruned(f"after step {step}, {name} {value:.4g}")

    def _told(self, value: float, step: int) -> bool:
        """As ``_behind``; a study that cannot be reached now ends no run, which may have taken days."""
        try:
            with study.reached(self.trial.storage):
                return self._behind(value, step)
        except UserError as error:
            log.warning("the validation after step %d is not reported to the study: %s", step, error)
            return False

    def _behind(self, value: float, step: int) -> bool:
        """Whether the pruner ends the trial, once it is told. One process asks: others would count the value twice."""
        import optuna

        if self._study is None:
            storage = study.opened(self.trial.storage)
            self._study = optuna.load_study(
                study_name=self.trial.study, storage=storage, pruner=study.pruner(self.trial.pruner)
            )
            self._storage = storage
            self._id = storage.get_trial_id_from_study_id_trial_number(
                storage.get_study_id_from_name(self.trial.study), self.trial.number
            )
        if not self._storage.get_trial(self._id).state.is_finished():  # a resumed run may come here again
            self._storage.set_trial_intermediate_value(self._id, step, value)
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(self._id)))
