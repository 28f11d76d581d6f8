"""The base of all stages: exact normalisation, safe updates, what is logged and what is saved."""

import copy
import dataclasses
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lit_llm.callbacks.numerics import Numerics
from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant
from lit_llm.records import IGNORE, TokenBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.options import StageOptions
from lit_llm.stages.pretraining import Pretraining
from tests.stages.training_run import Data, RandomRows, sgd, tiny_model, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def trained(folder: Path, micro: int, accumulate: int, clip: float | None, rows: int = 10) -> tuple[dict, float]:
    """Weights after an epoch in float64, and the last step's loss as logged."""
    stage = tiny_stage(tiny_model().double(), optimizer=partial(sgd, lr=0.1))
    trainer = trainer_for(
        folder,
        [],
        max_steps=-1,
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        limit_val_batches=0,
        enable_checkpointing=False,
    )
    trainer.fit(stage, datamodule=Data(rows, micro, shuffle=False))
    return stage.state_dict(), stage.latest["train/loss"]


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize(("micro", "accumulate"), [(1, 4), (2, 2), (1, 2)])
def test_accumulation_is_one_big_batch(tmp_path: Path, micro: int, accumulate: int, clip: float | None) -> None:
    """With uneven counts of trained tokens, and a short last window (10 rows in windows of 4, 4, 2)."""
    whole, loss = trained(tmp_path, micro * accumulate, 1, clip)
    parts, same_loss = trained(tmp_path, micro, accumulate, clip)
    assert loss == pytest.approx(same_loss, abs=1e-7)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=0, atol=1e-7)


def test_the_gradient_is_that_of_the_mean_over_tokens(tmp_path: Path) -> None:
    model = tiny_model().double()
    reference = copy.deepcopy(model)
    stage = tiny_stage(model)
    trainer_for(tmp_path, [], max_steps=1, limit_val_batches=0, enable_checkpointing=False).fit(
        stage, datamodule=Data(4, 4, shuffle=False)
    )
    batch = RandomRows(4).collate(range(4))
    logits = reference.logits(reference(batch.input_ids, batch.positions, batch.segments))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
    loss.backward()
    sgd(reference).step()
    assert stage.latest["train/loss"] == pytest.approx(loss.item())
    for (name, weight), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, msg=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearOptions(StageOptions):
    beta: float = 0.5
    names: Sequence[str] = ("a",)
    reward: Any = None


class Linear(Stage):
    """One weight, whose gradient is what the batch says."""

    Options = LinearOptions
    name = "linear"
    batch_type = torch.Tensor
    not_in_checkpoint = ("reference",)

    def __init__(self, options: LinearOptions | None = None, **values: Any) -> None:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        super().__init__(options, model=model, schedule=constant, **values)
        self.reference = nn.Linear(1, 1).requires_grad_(False)

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        valid = ~torch.isnan(batch) | (batch.nan_to_num(nan=7.0) == 7.0)
        return (self.model.weight * batch).sum(), valid.sum(), {"accuracy": (batch > 0).sum()}

    def tokens_in(self, batch: torch.Tensor) -> int:
        return batch.numel()


def fit_linear(folder: Path, values: list[float], clip: float | None = None, **options: Any) -> Linear:
    stage = Linear(optimizer=options.pop("optimizer", partial(adam, lr=0.1)))
    loader = torch.utils.data.DataLoader(torch.tensor(values), batch_size=1)
    callbacks = options.pop("callbacks", [Numerics()])
    trainer = trainer_for(folder, callbacks, max_steps=len(values), gradient_clip_val=clip, enable_checkpointing=False)
    trainer.fit(stage, loader, **options)
    return stage


def adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_bad_gradient_is_one_skip_and_no_change(tmp_path: Path, bad: float, place: int) -> None:
    good = [1.0, 2.0, -1.0, 3.0]
    numerics = Numerics()
    values = [*good[:place], bad, *good[place:]]
    stage = fit_linear(tmp_path, values, callbacks=[numerics])
    assert numerics.skipped == 1
    expected = fit_linear(tmp_path, good)
    assert torch.equal(stage.model.weight, expected.model.weight)


def test_a_huge_gradient_is_clipped_and_its_norm_logged(tmp_path: Path) -> None:
    def plain(module: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(module.model.parameters(), lr=1.0)  # type: ignore[union-attr,operator]

    stage = fit_linear(tmp_path, [-3e6], clip=1.0, optimizer=plain)
    assert stage.latest["train/grad_norm"] == pytest.approx(3e6)
    assert stage.model.weight.item() == pytest.approx(1.0)
    assert fit_linear(tmp_path, [-0.5], clip=1.0, optimizer=plain).model.weight.item() == pytest.approx(0.5)


class NothingToTrain(Linear):
    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        total, count, metrics = super().loss(batch)
        return total * 0, count * 0, metrics


def test_a_window_without_a_trained_token_changes_nothing(tmp_path: Path) -> None:
    numerics = Numerics()
    stage = NothingToTrain(optimizer=partial(adam, lr=0.1))
    nn.init.ones_(stage.model.weight)  # type: ignore[arg-type]
    loader = torch.utils.data.DataLoader(torch.ones(2), batch_size=1)
    trainer_for(tmp_path, [numerics], max_steps=2, enable_checkpointing=False).fit(stage, loader)
    assert stage.model.weight.item() == 1.0
    assert numerics.skipped == 2


def test_frozen_submodules_are_left_out_and_not_missed() -> None:
    stage = Linear(optimizer=partial(adam, lr=0.1))
    state = copy.deepcopy(stage.state_dict())
    assert list(state) == ["model.weight"]
    nn.init.ones_(stage.model.weight)  # type: ignore[arg-type]
    reference = stage.reference.weight.clone()
    stage.load_state_dict(state)
    assert stage.model.weight.item() == 0.0 and torch.equal(stage.reference.weight, reference)
    with pytest.raises(UserError, match=r"missing \['model.weight'\], unexpected \['other'\]"):
        stage.load_state_dict({"other": torch.zeros(1)})


def test_hyper_parameters_are_plain() -> None:
    stage = Linear(optimizer=partial(adam, lr=0.1))
    assert dict(stage.hparams) == {"beta": 0.5, "names": ("a",), "reward": None}
    with pytest.raises(TypeError, match="reward is a Linear"):
        Linear(LinearOptions(reward=nn.Linear(1, 1)), optimizer=partial(adam, lr=0.1))


def test_what_is_logged_and_when(tmp_path: Path) -> None:
    stage = tiny_stage()
    logger = CSVLogger(tmp_path)
    trainer = trainer_for(
        tmp_path,
        [],
        max_steps=6,
        log_every_n_steps=3,
        accumulate_grad_batches=2,
        val_check_interval=4,
        logger=logger,
        enable_checkpointing=False,
    )
    trainer.fit(stage, datamodule=Data(24, 2, sources=("general", "domain")))
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    header, values = rows[0].split(","), [row.split(",") for row in rows[1:]]
    table = [{key: float(cell) for key, cell in zip(header, row, strict=True) if cell} for row in values]
    training = [row for row in table if "train/loss" in row]
    assert [row["step"] for row in training] == [2, 5]
    assert all({"train/lr", "train/grad_norm"} <= row.keys() for row in training)
    validation = [row for row in table if "val/loss" in row]
    assert [row["step"] for row in validation] == [1, 3, 5]
    last = validation[-1]
    assert {"val/general/loss", "val/domain/loss"} <= last.keys()
    batches = [RandomRows(6, seed=seed).collate(range(6)) for seed in (9, 10)]
    with torch.no_grad():
        sums = [stage.eval().loss(batch) for batch in batches]
    assert last["val/domain/loss"] == pytest.approx(float(sums[1][0] / sums[1][1]), rel=1e-5)
    assert last["val/loss"] == pytest.approx(float((sums[0][0] + sums[1][0]) / (sums[0][1] + sums[1][1])), rel=1e-5)


def test_a_schedule_without_an_end_is_refused(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, [], max_steps=-1, max_epochs=-1, enable_checkpointing=False)
    with pytest.raises(UserError, match=r"trainer\.max_steps: not set"):
        trainer.fit(tiny_stage(), datamodule=Data())


def test_clipping_by_value_is_refused(tmp_path: Path) -> None:
    clipping = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}
    trainer = trainer_for(tmp_path, [], enable_checkpointing=False, **clipping)
    with pytest.raises(UserError, match="gradient_clip_algorithm: value"):
        trainer.fit(tiny_stage(), datamodule=Data())


class Manual(Linear):
    """Two updates a batch, as PPO makes them."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.automatic_optimization = False

    def total_steps(self) -> int:
        return 4

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # noqa: ARG002
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        for _ in range(2):
            optimizer.zero_grad()
            total, count, _ = self.loss(batch)
            self.manual_backward(total)
            norm = self.finish_gradients(self.model.parameters(), 1.0 / float(count), 1.0, total.item())
            optimizer.step()
            schedule.step()
        self.log_training({"grad_norm": norm, "objective/kl": 0.0})


def test_a_stage_that_updates_itself(tmp_path: Path) -> None:
    def plain(module: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(module.model.parameters(), lr=1.0)  # type: ignore[union-attr,operator]

    stage, numerics = Manual(optimizer=plain), Numerics()
    loader = torch.utils.data.DataLoader(torch.tensor([-0.5, math.nan, -9.0]), batch_size=1)
    trainer_for(tmp_path, [numerics], max_steps=-1, max_epochs=1, enable_checkpointing=False).fit(stage, loader)
    assert stage.model.weight.item() == pytest.approx(2 * 0.5 + 2 * 1.0)
    assert numerics.skipped == 2
    assert stage.latest == {"train/grad_norm": pytest.approx(9.0), "objective/kl": 0.0}


@pytest.mark.slow
def test_two_processes_are_one_big_batch(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path, 4, 1, None, rows=8)
    stage = tiny_stage(tiny_model().double(), optimizer=partial(sgd, lr=0.1))
    trainer = trainer_for(
        tmp_path,
        [],
        max_steps=2,
        devices=2,
        strategy="ddp_fork",
        accumulate_grad_batches=2,
        limit_val_batches=0,
        enable_checkpointing=False,
    )
    trainer.fit(stage, datamodule=Data(8, 1, shuffle=False))
    for name, weight in whole.items():
        torch.testing.assert_close(stage.state_dict()[name], weight, rtol=0, atol=1e-7)


def test_a_pretraining_stage_declares_its_batch() -> None:
    assert Pretraining.batch_type is TokenBatch and Pretraining.head == "language"
