"""Policies for losses that are no numbers. That no bad update happens is tested with the stage."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_llm.callbacks.numerics import Numerics
from lit_llm.errors import UserError
from lit_llm.records import TokenBatch
from lit_llm.stages.pretraining import Pretraining
from tests.stages.training_run import Data, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def fit(folder: Path, numerics: Numerics, bad: set[int], steps: int = 8) -> Pretraining:
    """Trains with a loss that is NaN in the steps named."""
    stage = tiny_stage()
    original, calls = stage.loss, iter(range(100))

    def loss(batch: TokenBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        total, count, metrics = original(batch)
        return (total * math.nan if next(calls) in bad else total), count, metrics

    stage.loss = loss  # type: ignore[method-assign]
    trainer = trainer_for(folder, [numerics], max_steps=steps, limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(stage, datamodule=Data())
    assert all(torch.isfinite(weight).all() for weight in stage.model.parameters())
    return stage


def test_skipping_is_counted_and_the_batch_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numerics = Numerics(max_in_a_row=2)
    stage = fit(tmp_path, numerics, {0, 3, 5})
    assert numerics.skipped == 3
    assert stage.trainer.callback_metrics["train/skipped_updates"] == 3
    assert "step 3 (epoch 0, batch 3): loss nan" in caplog.text or "step 3 (epoch 0, batch 3)" in caplog.text


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 4 .*3 updates in a row"):
        fit(tmp_path, Numerics(max_in_a_row=3), {0, 2, 3, 4})


def test_stop_ends_the_run_at_the_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 2 \(epoch 0, batch 2\)"):
        fit(tmp_path, Numerics(on_bad_update="stop"), {2})


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UserError, match="on_bad_update: ignore; must be one of skip, stop"):
        Numerics(on_bad_update="ignore")
