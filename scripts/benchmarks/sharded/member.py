"""One process of a run that ``work.py`` measures: a few steps of a stage; the first one prints what all held."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch._dynamo  # what optimizers and sharding import later is no part of the model
import torch.distributed.fsdp
from torch.utils.data import DataLoader

from lit_llm.backbone.deferred_weights import load_outline
from lit_llm.backbone.huggingface import load_language_model
from lit_llm.data.ranking_rows import ranking_batch
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.records import RankingBatch, TokenBatch
from lit_llm.runtime.allocator import keep_freed_memory
from lit_llm.runtime.distributed import gathered
from lit_llm.runtime.sharded_strategy import ShardedStrategy
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.pretraining import Pretraining
from lit_llm.training.plan.memory import peak_bytes

STAGES: dict[str, Any] = {"pretraining": Pretraining, "dpo": PreferenceOptimization}
OPTIMIZERS = {"adamw": partial(adamw, lr=1e-3), "muon": partial(muon_adamw, lr=1e-3)}


def texts(rows: int, length: int, vocabulary: int, generator: torch.Generator) -> TokenBatch:
    ids = torch.randint(vocabulary, (rows, length + 1), generator=generator)
    zeros = torch.zeros(rows, length, dtype=torch.int64)
    return TokenBatch(ids[:, :-1], ids[:, 1:], torch.arange(length).expand(rows, -1), zeros, zeros)


def rankings(rows: int, length: int, vocabulary: int, generator: torch.Generator) -> RankingBatch:
    """Half a row's tokens are a prompt's, a quarter each of two answers'."""
    whole = torch.randint(vocabulary, (rows, length), generator=generator).numpy()
    half, quarter = length // 2, length // 4
    pairs = [(row[:half], row[start : start + quarter]) for row in whole for start in (half, half + quarter)]
    groups = [group for group in range(rows) for _ in range(2)]
    return ranking_batch(pairs, groups, [1, 2] * rows, [1.0] * rows)


class Clock(L.Callback):
    """The seconds of each step but the first, and its loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._last = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, stage: Any, *args: Any) -> None:  # noqa: ARG002
        now = time.perf_counter()
        self.losses.append(stage.latest["train/loss"])
        if len(self.losses) > 1:
            self.seconds.append(now - self._last)
        self._last = now


def main(told: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    torch.set_num_threads(1)
    bare = peak_bytes("cpu")
    world, tensor = int(os.environ["WORLD_SIZE"]), int(told["tensor_parallel"])
    shares, share = world // tensor, int(os.environ["RANK"]) // tensor
    folder, sharded = Path(told["folder"]), told["way"] not in ("one", "ddp")
    model = load_outline(folder) if sharded else load_language_model(folder)
    stage = STAGES[told["stage"]](model=model, optimizer=OPTIMIZERS[told["optimizer"]])
    generator, make = torch.Generator().manual_seed(0), texts if told["stage"] == "pretraining" else rankings
    rows, batches = told["rows"], []
    for _ in range(told["steps"]):
        # Each step's rows are drawn alike in every process, which keeps its share.
        own = [make(rows // shares, told["length"], model.config.vocab_size, generator) for _ in range(shares)]
        batches.append(own[share])
    strategy: Any = ShardedStrategy(shares, tensor, told["way"]) if sharded else "ddp" if world > 1 else "auto"
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, max_steps=told["steps"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        callbacks=[clock], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(stage, DataLoader(batches, batch_size=None, shuffle=False))  # type: ignore[arg-type]
    held = gathered(peak_bytes("cpu") - bare, world)
    if trainer.is_global_zero:
        found = {"held": held, "bare": bare, "losses": clock.losses, "seconds": sorted(clock.seconds)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
