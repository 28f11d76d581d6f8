"""Tokens a second, and which share of the device's peak they are (MFU; PaLM, arXiv:2204.02311, appendix B)."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from lit_llm.callbacks.options import ThroughputOptions
from lit_llm.callbacks.peak import peak_flops
from lit_llm.records import PromptBatch
from lit_llm.runtime.distributed import peers
from lit_llm.runtime.lightning_loops import is_logging_step, is_trial


class TokenCount(L.Callback):
    """Counts the tokens that a run trains on, of all processes, whatever is logged of them."""

    def __init__(self) -> None:
        self.tokens = 0  # over all steps of the run, resumed ones included, up to where the device was last asked
        self._pending: int | Tensor = 0  # of this process's batches since then
        self._batches = 0
        self._world, self._device = 1, torch.device("cpu")

    @property
    def total(self) -> int:
        """Of all steps so far. Every process asks alike."""
        self._take()
        return self.tokens

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens = state_dict["tokens"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pending, self._batches = 0, 0
        self._world, self._device = trainer.world_size, pl_module.device

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:  # noqa: ARG002
        self._pending, self._batches = self._pending + pl_module.tokens_in(batch), self._batches + 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._take()

    def _take(self) -> None:
        """Waits for the device, and for the other processes, whose answers may be longer: all have had as many batches.
        Nothing is sent where there was none since the last time."""
        if not self._batches:
            return
        seen = int(self._pending)
        if self._world > 1:
            every = torch.tensor(seen, device=self._device)
            dist.all_reduce(every)
            seen = int(every) // peers()  # which have each counted the same rows
        self.tokens += seen
        self._pending, self._batches = 0, 0


class Throughput(TokenCount):
    """Logs ``train/tokens_per_second`` over all devices, ``train/mfu`` and ``train/tokens`` (seen so far), and
    ``train/data_wait``, the share of the time in which the first process waited for its data.

    The time that validation and writing checkpoints take is left out: it is the speed of training.

    Options: ``ThroughputOptions``.
    """

    Options: ClassVar[type[ThroughputOptions]] = ThroughputOptions

    def __init__(self, options: ThroughputOptions | None = None, **values: Any) -> None:
        super().__init__()
        self.options = ThroughputOptions.of(options, values)
        tflops = self.options.peak_tflops
        self.peak = None if tflops is None else tflops * 1e12
        self._flops, self._seconds, self._started, self._waited = 0.0, 0.0, 0.0, 0.0
        self._logged = 0  # of ``tokens``
        self.tokens_per_second = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._flops, self._seconds, self._waited = 0.0, 0.0, _seconds_waited(trainer)
        self._logged = self.tokens
        self._started = time.perf_counter()
        if self.options.mfu and self.peak is None and not is_trial(trainer):
            self.peak = peak_flops(pl_module.device, _matmul_dtype(trainer))

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ARG002
        self._started = time.perf_counter() if self._started == 0.0 else self._started

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, *args)
        config = getattr(pl_module.model, "config", None)
        # Of shared prompts fewer tokens are read than the batch holds, of prompts that are answered more:
        # the share of the peak is unknown.
        shared = hasattr(batch, "completions") or isinstance(batch, PromptBatch)
        if self.peak and not shared and config is not None and hasattr(config, "flops_per_token"):
            self._flops += batch.input_ids.numel() * config.flops_per_token(batch.input_ids.shape[-1]) / peers()
        if not is_logging_step(trainer):
            return
        self._take()  # waits for the device, so the time below is the work's
        self._pause()
        seen, waited = self.tokens - self._logged, _seconds_waited(trainer)
        values = {"train/tokens_per_second": seen / self._seconds}
        values["train/data_wait"] = (waited - self._waited) / self._seconds
        if self._flops and self.peak:
            values["train/mfu"] = self._flops / self._seconds / self.peak
        self.tokens_per_second = values["train/tokens_per_second"]
        pl_module.log_dict({**values, "train/tokens": float(self.tokens)})
        self._flops, self._seconds, self._started = 0.0, 0.0, time.perf_counter()
        self._waited, self._logged = waited, self.tokens

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            self._pause()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:  # noqa: ARG002
        self._pause()

    def _pause(self) -> None:
        """Stops the clock until the next batch starts."""
        if self._started:
            self._seconds += time.perf_counter() - self._started
        self._started = 0.0


def _seconds_waited(trainer: L.Trainer) -> float:
    """For batches since the run began; 0 where the loader does not count it."""
    return float(getattr(trainer.train_dataloader, "seconds_waited", 0.0))


def _matmul_dtype(trainer: L.Trainer) -> torch.dtype:
    precision = str(trainer.precision)
    return torch.bfloat16 if precision.startswith("bf16") else torch.float16 if "16" in precision else torch.float32
