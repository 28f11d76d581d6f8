"""What a run's data says of it before any weight is read: batches, steps, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.records import IGNORE, LabelledBatch, RankingBatch, TokenBatch
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
    tokens_a_step: int  # of a whole one
    uneven: bool  # whether the last step of an epoch has fewer
    tokens: int  # of all steps, without padding
    positions: int  # with padding: it is computed too

    @classmethod
    def read(cls, cfg: DictConfig, folder: Path) -> RunData:
        check_batches(cfg)
        tokenizer = load_run_tokenizer(cfg, folder / "tokenizer")
        data = construct(cfg.data, "data", cfg.allowed_targets)(tokenizer=tokenizer)
        loader = data.train_dataloader()
        seen = [batch for _, batch in zip(range(BATCHES), loader, strict=False)]
        sizes = [_size(batch) for batch in seen]
        if not sizes:
            raise UserError(f"data.path={cfg.data.get('path')}: not one batch to train on")
        rows, length = max(sizes, key=lambda size: size[0] * size[1])
        a_step = accumulation(cfg) * devices.shares(cfg.trainer)  # batches, of all processes
        steps = optimizer_steps(cfg, accumulation(cfg))
        an_epoch = -(-len(loader) // a_step)
        if cfg.trainer.max_epochs is not None:
            epochs = an_epoch * cfg.trainer.max_epochs
            steps = epochs if steps < 0 else min(steps, epochs)
        learned = stage_options(cfg).tokens_learned
        positions = [learned(rows, length) for rows, length in sizes]
        held = [size * _held(batch, tokenizer.pad_id) for size, batch in zip(positions, seen, strict=True)]
        whole, rest = divmod(max(steps, 0), an_epoch)
        batches = whole * len(loader) + min(rest * a_step, len(loader))
        return cls(
            vocabulary=tokenizer.vocab_size,
            rows=rows,
            length=length,
            tokens_an_epoch=data.train_tokens,
            rows_an_epoch=data.rows_per_epoch,
            steps=steps if steps >= 0 else None,
            tokens_a_step=round(sum(held) / len(held) * min(a_step, len(loader))),
            uneven=steps >= an_epoch > 1 and len(loader) % a_step > 0,
            tokens=round(sum(held) / len(held) * batches),
            positions=round(sum(positions) / len(positions) * batches),
        )


BATCHES = 8  # looked at for the largest


def _held(batch: Any, pad_id: int) -> float:
    """Which share of a batch's positions no row is padded with at its end."""
    if not isinstance(batch, TokenBatch):
        return 1.0
    padding = (batch.input_ids == pad_id) & (batch.labels == IGNORE)
    return 1.0 - float(padding.flip(1).cumprod(1).sum()) / padding.numel()


def _size(batch: Any) -> tuple[int, int]:
    """Rows and tokens a row of a batch; of packed completions as many rows as hold them, each as long as the longest
    prompt with its completion."""
    if not isinstance(batch, RankingBatch | LabelledBatch):
        rows, length = batch.input_ids.shape
        return int(rows), int(length)
    longest = int(batch.completions.longest)
    return max(1, -(-int(batch.completions.input_ids.numel()) // longest)), longest
