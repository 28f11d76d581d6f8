"""Speed: what is counted, and against which peak."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_llm.callbacks.peak import measured_matmul_flops, peak_flops
from lit_llm.callbacks.throughput import Throughput, TokenCount
from tests.stages.training_run import LENGTH, Data, RandomRows, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Clock(L.Callback):
    """A clock that only training batches (1 s) and validation (100 s) move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ARG002
        self.now += 1

    def on_validation_batch_start(self, *args: Any) -> None:  # noqa: ARG002
        self.now += 100


def test_speed_leaves_validation_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    throughput, clock, stage = Throughput(peak_tflops=1e-3), Clock(), tiny_stage()
    monkeypatch.setattr("lit_llm.callbacks.throughput.time.perf_counter", lambda: clock.now)
    trainer = trainer_for(
        tmp_path,
        [throughput, clock],
        max_steps=6,
        log_every_n_steps=6,
        val_check_interval=3,
        limit_val_batches=1,
        accumulate_grad_batches=2,
        enable_checkpointing=False,
    )
    trainer.fit(stage, datamodule=Data(24, 2))
    tokens = 12 * 2 * LENGTH
    assert throughput.tokens == trainer.callback_metrics["train/tokens"] == tokens
    assert throughput.tokens_per_second == pytest.approx(tokens / 12)
    flops = stage.model.config.flops_per_token(LENGTH)
    assert trainer.callback_metrics["train/mfu"] == pytest.approx(tokens * flops / 12 / 1e9, rel=1e-4)


def test_waiting_for_data_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    throughput, clock, collate = Throughput(mfu=False), Clock(), RandomRows.collate

    def slow(rows: RandomRows, items: Any) -> Any:
        clock.now += 0.25  # for each batch, of which training takes 1 s
        return collate(rows, items)

    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr(RandomRows, "collate", slow)
    options = {"max_steps": 8, "log_every_n_steps": 4, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = trainer_for(tmp_path, [throughput, clock], **options)
    trainer.fit(tiny_stage(), datamodule=Data(24, 2))
    assert trainer.callback_metrics["train/data_wait"] == pytest.approx(0.25 / 1.25)


def test_tokens_are_counted_whatever_is_logged(tmp_path: Path) -> None:
    """Also beyond the last step that was logged."""
    throughput, alone = Throughput(mfu=False), TokenCount()
    options = {"max_steps": 5, "log_every_n_steps": 3, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = trainer_for(tmp_path, [throughput, alone], **options)
    trainer.fit(tiny_stage(), datamodule=Data(24, 2))
    assert trainer.callback_metrics["train/tokens"] < 5 * 2 * LENGTH
    assert throughput.total == alone.total == alone.state_dict()["tokens"] == 5 * 2 * LENGTH


def test_tokens_go_on_counting_after_a_resume() -> None:
    first, second = Throughput(), Throughput()
    first.tokens, first._pending, first._batches = 100, torch.tensor(7), 1
    second.load_state_dict(first.state_dict())
    assert second.tokens == 107


def test_the_peak_is_measured_on_a_cpu() -> None:
    device = torch.device("cpu")
    assert 1e6 < peak_flops(device, torch.float32) < 1e14
    assert 1e6 < measured_matmul_flops(device, torch.bfloat16) < 1e14  # a core of many busy processes had 0.99e8


def test_the_peak_of_a_known_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tera in {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA A100-SXM4-40GB": 312}.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda"), torch.bfloat16) == tera * 1e12
