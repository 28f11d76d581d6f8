"""What a run's data says of it before any weight is read: batches, steps, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.records import LabelledBatch, RankingBatch
from lit_llm.runtime import devices
from lit_llm.training.build import check_batches, load_run_tokenizer
from lit_llm.training.plan.memory import stage_options
from lit_llm.training.trainer import accumulation, optimizer_steps


@dataclass(frozen=True)
class RunData:
    """Sizes of a process's batches; rows, tokens and steps of the whole run, over all processes."""

    vocabulary: int
    rows: int  # of a batch
    length: int  # tokens of its longest row
    tokens_an_epoch: int  # that are trained
    rows_an_epoch: int
    steps: int | None  # of the run; None: time ends it
    tokens_a_step: int

    @classmethod
    def read(cls, cfg: DictConfig, folder: Path) -> RunData:
        check_batches(cfg)
        tokenizer = load_run_tokenizer(cfg, folder / "tokenizer")
        data = construct(cfg.data, "data", cfg.allowed_targets)(tokenizer=tokenizer)
        loader = data.train_dataloader()
        sizes = [_size(batch) for _, batch in zip(range(BATCHES), loader, strict=False)]
        if not sizes:
            raise UserError(f"data.path={cfg.data.get('path')}: not one batch to train on")
        rows, length = max(sizes, key=lambda size: size[0] * size[1])
        many, processes = accumulation(cfg), devices.shares(cfg.trainer)
        steps = optimizer_steps(cfg, many)
        if cfg.trainer.max_epochs is not None:
            an_epoch = -(-len(loader) // (many * processes))
            epochs = an_epoch * cfg.trainer.max_epochs
            steps = epochs if steps < 0 else min(steps, epochs)
        learned = stage_options(cfg).tokens_learned
        mean = sum(learned(rows, length) for rows, length in sizes) / len(sizes)
        return cls(
            vocabulary=tokenizer.vocab_size,
            rows=rows,
            length=length,
            tokens_an_epoch=data.train_tokens,
            rows_an_epoch=data.rows_per_epoch,
            steps=steps if steps >= 0 else None,
            tokens_a_step=int(mean * many * processes),
        )


BATCHES = 8  # looked at for the largest


def _size(batch: Any) -> tuple[int, int]:
    """Rows and tokens a row of a batch; of packed completions as many rows as hold them, each as long as the longest
    prompt with its completion."""
    if not isinstance(batch, RankingBatch | LabelledBatch):
        rows, length = batch.input_ids.shape
        return int(rows), int(length)
    longest = int(batch.completions.longest)
    return max(1, -(-int(batch.completions.input_ids.numel()) // longest)), longest
