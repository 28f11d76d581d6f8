"""A small run through Lightning's Trainer, as a command builds one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.models import LanguageModel
from lit_llm.callbacks.checkpoints import Checkpoints
from lit_llm.callbacks.numerics import Numerics
from lit_llm.callbacks.throughput import Throughput
from lit_llm.checkpointing.atomic import AtomicCheckpointIO
from lit_llm.checkpointing.random_state import RandomState
from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.data.loading import ResumableLoader, sequential, shuffled
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.schedules import constant, cosine
from lit_llm.records import IGNORE, TokenBatch
from lit_llm.runtime import lightning_loops
from lit_llm.stages.options import PretrainingOptions
from lit_llm.stages.pretraining import Pretraining

VOCABULARY, LENGTH = 32, 8


def tiny_model(dropout: float = 0.0, seed: int = 0, vocab_size: int = VOCABULARY) -> LanguageModel:
    torch.manual_seed(seed)
    config = BackboneConfig(
        family="qwen3",
        vocab_size=vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=32,
        max_positions=32,
        dropout=dropout,
    )
    return LanguageModel(config)


def sgd(module: nn.Module, lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=lr)


def tiny_stage(
    model: LanguageModel | None = None, optimizer: Any = sgd, tokenizer: Any = None, **values: Any
) -> Pretraining:
    options, live = PretrainingOptions(**values), {"optimizer": optimizer, "schedule": constant}
    return Pretraining(options, model=model or tiny_model(), tokenizer=tokenizer, **live)


class RandomRows:
    """Rows of random tokens, with uneven numbers of trained ones."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)
        self.trained = torch.randint(1, LENGTH + 1, (rows,), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> TokenBatch:
        rows = self.tokens[list(items)]
        labels = rows[:, 1:].clone()
        labels[torch.arange(LENGTH) >= self.trained[list(items)].unsqueeze(1)] = IGNORE
        zeros = torch.zeros_like(labels)
        return TokenBatch(rows[:, :-1], labels, torch.arange(LENGTH).expand_as(labels), zeros, zeros)


class Data(L.LightningDataModule):
    def __init__(
        self, rows: int = 23, batch_size: int = 2, shuffle: bool = True, sources: tuple[str, ...] = ("general",)
    ) -> None:
        super().__init__()
        self.rows, self.batch_size, self.shuffle, self.source_names = rows, batch_size, shuffle, sources

    def train_dataloader(self) -> ResumableLoader:
        order = shuffled(self.rows, 3) if self.shuffle else sequential(self.rows)
        return ResumableLoader(RandomRows(self.rows), self.batch_size, order=order)

    def val_dataloader(self) -> list[ResumableLoader]:
        return [ResumableLoader(RandomRows(6, seed=9 + index), 2) for index in range(len(self.source_names))]


class DieAt(L.Callback):
    """Sends a signal to the process in the middle of an accumulation window after so many steps."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_step == self.step and trainer.fit_loop.epoch_loop.batch_progress.current.ready % 2 == 0:
            self.step = -1
            os.kill(os.getpid(), self.signum)


def trainer_for(folder: Path, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
    options = {"max_steps": 12, "log_every_n_steps": 1, "num_sanity_val_steps": 0, "logger": False} | options
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    return lightning_loops.install(trainer)


def twenty_steps(optimizer: torch.optim.Optimizer, total_steps: int) -> Any:  # noqa: ARG001
    """The same rates for runs of different lengths."""
    return cosine(optimizer, 20, warmup_steps=3)


def run(
    folder: Path,
    *,
    max_steps: int = 12,
    max_epochs: int | None = None,
    accumulate: int = 2,
    every_n_steps: int | None = 2,
    keep: int = 2,
    more: list[L.Callback] | None = None,
    resume: bool = False,
    find: Callable[[Path], Path | None] = find_checkpoint,
    checkpoints: Checkpoints | None = None,
) -> tuple[L.Trainer, Pretraining]:
    """Two epochs in twelve steps, with dropout, validation on the way, Muon and a warm-up."""
    L.seed_everything(1, verbose=False)
    stage = Pretraining(model=tiny_model(0.2), optimizer=partial(muon_adamw, lr=1e-2), schedule=twenty_steps)
    checkpoints = checkpoints or Checkpoints(every_n_steps=every_n_steps, keep=keep, monitor="val/loss")
    trainer = trainer_for(
        folder,
        [RandomState(), Numerics(), Throughput(mfu=False), checkpoints, *(more or [])],
        max_steps=max_steps,
        max_epochs=max_epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=1,
    )
    trainer.fit(stage, datamodule=Data(), ckpt_path=find(folder) if resume else None, weights_only=True)
    return trainer, stage


def state_of(trainer: L.Trainer, stage: L.LightningModule) -> dict[str, Any]:
    schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    return {"weights": stage.state_dict(), "optimizer": trainer.optimizers[0].state_dict()["state"]} | {
        "schedule": {key: schedule[key] for key in ("last_epoch", "_last_lr")}
    }


def assert_same(first: Any, second: Any, where: str = "state") -> None:
    """Bitwise, all the way down."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    else:
        assert first == second, where
