"""A progress bar in a terminal; elsewhere (a log file, a cluster's output) a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lit_llm.callbacks.options import ProgressOptions
from lit_llm.errors import UserError
from lit_llm.runtime.lightning_loops import step_ended, steps_done
from lit_llm.runtime.progress_bars import USUAL
from lit_llm.runtime.terminal import columns

SHOWN = {"train/loss": "loss", "val/loss": "val", "train/lr": "lr", "train/tokens_per_second": "tok/s"}
ROLLOUT = {  # of a stage that answers prompts; cut: the share of answers that max_new_tokens ended
    "objective/scores": "reward", "objective/kl": "kl", "objective/response_length": "length",
    "objective/truncated": "cut", "val/loss": "val reward", "train/lr": "lr",
}  # fmt: skip
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
ENDLESS = "{desc} {n_fmt} steps {elapsed}{postfix}"


class Progress(ProgressBar):
    """Shows steps done, time left and the last numbers.

    Options: ``ProgressOptions``.
    """

    Options: ClassVar[type[ProgressOptions]] = ProgressOptions

    def __init__(self, options: ProgressOptions | None = None, **values: Any) -> None:
        super().__init__()
        self.options = ProgressOptions.of(options, values)
        self.enabled = True
        self._bar: tqdm[Any] | None = None
        self._total: int | None = None
        self._name = "train"
        self._last_shown = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or not self.enabled:
            return
        with suppress(UserError):  # ended by time alone: nobody knows how many there will be
            self._total = pl_module.total_steps()
        self._name = str(getattr(pl_module, "name", "train"))
        self._last_shown = time.monotonic()
        if sys.stderr.isatty():
            width = columns(sys.stderr)
            self._bar = tqdm(
                desc=self._name, total=self._total, initial=steps_done(trainer),
                bar_format=BAR if self._total else ENDLESS, **(USUAL if width is None else {"ncols": width}),
            )  # fmt: skip

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # noqa: ARG002
        if not self.enabled or not trainer.is_global_zero or not step_ended(trainer):
            return
        now = time.monotonic()
        interval = self.options.refresh_seconds if self._bar is not None else self.options.every_seconds
        if now - self._last_shown >= interval:
            self._last_shown = now
            self._show(trainer, pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._draw(self._bar, ["validating"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.enabled and trainer.is_global_zero:
            self._show(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self._close()

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        text = shown({**trainer.callback_metrics, **getattr(pl_module, "latest", {})})
        done = steps_done(trainer)
        if self._bar is not None:
            self._bar.n = done
            self._draw(self._bar, text.split(", "))
        else:
            of = "" if self._total and done > self._total else f"/{self._total or '?'}"  # more than it is to do now
            print(f"{self._name}: step {done}{of}, {text}", file=sys.stderr, flush=True)

    def _draw(self, bar: tqdm[Any], parts: list[str]) -> None:
        """Draws the bar with as many of the numbers, the first ones first, as fit beside the time left."""
        bar.ncols = columns(sys.stderr)  # the window may have another size by now
        if bar.total is not None:
            bar.total = max(bar.total, bar.n)  # beyond its total tqdm shows neither share nor time left
        if bar.ncols is not None:
            bare = len(bar.format_meter(**{**bar.format_dict, "ncols": None, "postfix": None}))
            while parts and bare + len(", " + ", ".join(parts)) > bar.ncols:
                parts = parts[:-1]
        bar.set_postfix_str(", ".join(parts))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def shown(values: Mapping[str, Any]) -> str:
    """The numbers of a step in words: of a rollout reward, KL and length of its answers, and how many were cut."""
    keys = ROLLOUT if "objective/scores" in values else SHOWN
    found = {short: float(values[key]) for key, short in keys.items() if key in values}
    if "val reward" in found:
        found["val reward"] *= -1.0  # a policy's loss in validation is minus the reward
    numbers = ((name, value + 0.0) for name, value in found.items())  # 0 has no sign
    return ", ".join(f"{name} {value:.0%}" if name == "cut" else f"{name} {value:.4g}" for name, value in numbers)
