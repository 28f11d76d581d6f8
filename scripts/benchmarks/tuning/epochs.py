"""One of this project's stages in Lightning's loop, an epoch at a call.

Without logger, checkpoints and callbacks, as TRL's trainers run beside it: what is timed is the training.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import lightning as L
import torch

from benchmarks.race import wait_for
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.models import LanguageModel
from lit_llm.optim.adamw import adamw
from lit_llm.optim.schedules import constant
from lit_llm.stages.base import Stage
from lit_llm.stages.reference_store import KnownLogps

LEARNING_RATE = 1e-12
"""So small that the timed steps leave the models what they are: every call then does the same."""


class Epoch:
    """One call is an epoch of a stage, from the loader to the last update.

    Args:
        batches: makes the loader.
        units: of work in an epoch.
        forget: what the reference says of the data, as the first epoch of a run does not know it.
        first: numbers that are to be compared with TRL's.
        device: where the stage runs: cpu or cuda.
    """

    def __init__(
        self,
        stage: Stage,
        batches: Callable[[], Any],
        units: float,
        precision: str,
        forget: bool = False,
        first: dict[str, float] | None = None,
        device: str = "cpu",
    ) -> None:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.stage, self.batches, self.units = stage, batches, units
        self.precision, self.forget, self.first = precision, forget, first or {}
        self.device = torch.device(device)
        self.starts: list[float] = []

    def __call__(self) -> None:
        if self.forget:
            self.stage._known = KnownLogps({})  # type: ignore[assignment]
        own = not self.stage.automatic_optimization
        began = Began(time.perf_counter(), self.starts)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(
            accelerator=self.device.type,
            devices=1 if self.device.index is None else [self.device.index],
            precision=self.precision,  # type: ignore[arg-type]
            max_epochs=1,
            gradient_clip_val=None if own else 1.0,
            enable_model_summary=False,
            callbacks=[began],
            **quiet,  # type: ignore[arg-type]
        )
        trainer.fit(self.stage, self.batches())

    def wait(self) -> None:
        wait_for(self.device)

    def numbers(self) -> dict[str, float]:
        return {**self.first, "start_seconds": median(self.starts), "call_units": self.units}


class Began(L.Callback):
    """Notes how long it took from ``called`` until the loop began: a run pays it once, a call of the race each time."""

    def __init__(self, called: float, starts: list[float]) -> None:
        self.called, self.starts = called, starts

    def on_train_start(self, *_: object) -> None:
        self.starts.append(time.perf_counter() - self.called)


def policy(config: BackboneConfig, seed: int = 0) -> LanguageModel:
    """The same weights in every contestant's process."""
    torch.manual_seed(seed)
    return LanguageModel(config)


def parts() -> dict[str, Any]:
    """The stage's optimizer and schedule."""
    return {"optimizer": partial(adamw, lr=LEARNING_RATE, weight_decay=0.0), "schedule": constant}
