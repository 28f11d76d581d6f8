"""Training never waits for its data: what the loop spends on fetching a batch, beside what it spends on training."""

import logging
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.profilers import SimpleProfiler

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.packing import PackedRows, concatenate_and_split
from lit_llm.data.token_cache import TokenStore
from lit_llm.optim.muon import muon_adamw
from tests.stages.training_run import tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Packed(L.LightningDataModule):
    """64 rows of 128 positions, filled with documents as raw text is."""

    def train_dataloader(self) -> ResumableLoader:
        rng = np.random.default_rng(0)
        sizes = rng.integers(20, 80, size=200)
        documents = TokenStore(rng.integers(256, size=sizes.sum()), np.cumsum([0, *sizes]), None)
        rows = PackedRows(documents, concatenate_and_split(sizes - 1, 128), pad_id=0)
        return ResumableLoader(rows, 8, order=shuffled(len(rows), 0))


def test_fetching_a_batch_is_a_small_part_of_a_step(tmp_path: Path) -> None:
    """In this process, without workers: packing eight rows takes about 1% of a step of even this small a model."""
    torch.manual_seed(0)
    stage = tiny_stage(LanguageModel(from_depth(256, 2, hidden_size=64)), optimizer=partial(muon_adamw, lr=0.01))
    profiler = SimpleProfiler()
    trainer = trainer_for(tmp_path, [], max_steps=12, profiler=profiler, enable_checkpointing=False)
    trainer.fit(stage, datamodule=Packed())
    waited = profiler.recorded_durations["[EpochLoop].train_dataloader_next"]
    trained = profiler.recorded_durations["run_training_batch"]
    assert len(waited) >= 12 and len(trained) == 12
    assert np.median(waited) < 0.2 * np.median(trained)
