"""One process of a run that ``work.py`` measures: a few steps of a stage; the first one prints what all held."""

from __future__ import annotations

import json
import logging
import math
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
from lit_llm.records import PromptBatch, RankingBatch, TokenBatch
from lit_llm.runtime.allocator import GATHERED, keep_freed_memory
from lit_llm.runtime.distributed import gathered
from lit_llm.runtime.sharded_strategy import ShardedStrategy
from lit_llm.runtime.shared_tensors import local
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.pretraining import Pretraining
from lit_llm.stages.reward_modeling import RewardModeling
from lit_llm.training.plan.memory import peak_bytes

END = 0  # the token that ends an answer
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


def prompts(rows: int, length: int, vocabulary: int, generator: torch.Generator) -> PromptBatch:
    """Half a row's tokens are a prompt's; the other half is for the answer."""
    ids = torch.randint(1, vocabulary, (rows, length // 2), generator=generator)
    return PromptBatch(ids, torch.full((rows,), length // 2), torch.arange(rows))


class Even:
    """A reward: the share of even tokens, those of the prompt among them."""

    def score_tokens(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        there = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return ((input_ids % 2 == 0) & there).sum(1) / lengths


def kind_of(stage: str, length: int) -> tuple[Any, Any]:
    """What makes a stage from its model, and what makes its batches."""
    sampled: dict[str, Any] = {"max_new_tokens": length - length // 2, "end_ids": (END,), "micro_batch_size": 1}
    lora = InstructionTuning.Options(lora_rank=16, lora_dropout=0.0)
    kinds: dict[str, tuple[Any, Any]] = {
        "pretraining": (Pretraining, texts),
        "lora": (partial(InstructionTuning, lora), texts),
        "dpo": (PreferenceOptimization, rankings),
        "reward_model": (RewardModeling, rankings),
        "ppo": (partial(PPO, PPO.Options(ptx_coef=0.0, **sampled), reward=Even()), prompts),
        "grpo": (partial(GRPO, GRPO.Options(group_size=4, **sampled), reward=Even()), prompts),
    }
    return kinds[stage]


def state_bytes(trainer: L.Trainer, stage: Any) -> int:
    """This process's part of weights, gradients and what optimizers keep."""
    kept = [value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()]
    weights = list(stage.parameters())
    gradients = [each.grad for each in weights if each.grad is not None]
    parts = [local(each) for each in [*weights, *gradients, *kept] if isinstance(each, torch.Tensor)]
    return sum(part.numel() * part.itemsize for part in parts)


class Clock(L.Callback):
    """The seconds of each step but the first, by the clock and of the processor, its loss, and the most that
    ``state_bytes`` was."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self.losses: list[float] = []
        self.state = 0
        self._last = self._last_processor = 0.0

    def on_before_optimizer_step(self, trainer: L.Trainer, stage: Any, optimizer: Any) -> None:  # noqa: ARG002
        self.state = max(self.state, state_bytes(trainer, stage))

    def on_train_batch_end(self, trainer: L.Trainer, stage: Any, *args: Any) -> None:  # noqa: ARG002
        now, processor = time.perf_counter(), time.process_time()
        # Answers are sampled anew in each process: their losses are of other answers than one process's.
        self.losses.append(stage.latest["train/loss"] if stage.automatic_optimization else math.nan)
        if len(self.losses) > 1:
            self.seconds.append(now - self._last)
            self.processor.append(processor - self._last_processor)
        self._last, self._last_processor = now, processor


def main(told: dict[str, Any]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    folder, sharded = Path(told["folder"]), told["way"] not in ("one", "ddp")
    keep_freed_memory(GATHERED if sharded and not told["keep"] else None)
    torch.set_num_threads(1)
    bare = peak_bytes("cpu")
    world, tensor = int(os.environ["WORLD_SIZE"]), int(told["tensor_parallel"])
    shares, share = world // tensor, int(os.environ["RANK"]) // tensor
    model = load_outline(folder) if sharded else load_language_model(folder)
    kind, make = kind_of(told["stage"], told["length"])
    stage = kind(model=model, optimizer=OPTIMIZERS[told["optimizer"]])
    generator = torch.Generator().manual_seed(0)
    rows, batches = told["rows"], []
    for _ in range(told["steps"]):
        # Each step's rows are drawn alike in every process, which keeps its share.
        own = [make(rows // shares, told["length"], model.config.vocab_size, generator) for _ in range(shares)]
        batches.append(own[share])
    strategy: Any = ShardedStrategy(shares, tensor, told["way"]) if sharded else "ddp" if world > 1 else "auto"
    clock, by_itself = Clock(), not stage.automatic_optimization
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy=strategy, max_steps=-1, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=None if by_itself else 1.0, callbacks=[clock], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(stage, DataLoader(batches, batch_size=None, shuffle=False))  # type: ignore[arg-type]
    held, state = gathered(peak_bytes("cpu") - bare, world), gathered(float(clock.state), world)
    processor = gathered(sorted(clock.processor), world)
    if trainer.is_global_zero:
        found = {"held": held, "state": state, "bare": bare, "losses": clock.losses, "seconds": sorted(clock.seconds),
                 "processor": processor}  # fmt: skip
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
