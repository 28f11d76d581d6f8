"""When a run is validated and where it may end: at the ends of optimizer steps, the last one always, none twice."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from omegaconf import OmegaConf

from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.errors import UserError
from lit_llm.runtime.lightning_loops import steps_done
from lit_llm.training import trainer as trainers
from lit_llm.training.trainer import NothingLeft, TimeLimit
from tests.stages.training_run import Data, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Validated(L.Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self.steps.append(steps_done(trainer))


class StopsAt(L.Callback):
    """Asks for the end at a micro-batch, perhaps within a window."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        trainer.should_stop = trainer.fit_loop.epoch_loop.batch_progress.total.ready >= self.batch


EVERY_FOUR = {"val_check_interval": 4 * 5, "check_val_every_n_epoch": None}  # as the trainer's settings are translated


# An epoch has 12 batches: with 5 to a step its steps end after batches 5, 10 and 12.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_steps": 9, "accumulate_grad_batches": 5, **EVERY_FOUR}, [4, 8, 9]),
        ({"max_steps": 8, "accumulate_grad_batches": 5, **EVERY_FOUR}, [4, 8]),
        ({"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 5}, [3, 6]),
        ({"max_steps": 5, "accumulate_grad_batches": 5}, [3, 5]),
        ({"max_steps": -1, "max_epochs": 1, "accumulate_grad_batches": 5, "val_check_interval": 0.5}, [2, 3]),  # of 6
        ({"max_steps": 16, "val_check_interval": 0.25}, [3, 6, 9, 12, 15, 16]),
        ({"max_steps": 5, "val_check_interval": 100, "check_val_every_n_epoch": None}, [5]),
        ({"max_steps": 5, "limit_val_batches": 0}, []),
    ],
)
def test_every_so_many_steps_or_shares_and_the_last_step(options: dict, expected: list[int], tmp_path: Path) -> None:
    validated = Validated()
    trainer_for(tmp_path, [validated], enable_checkpointing=False, **options).fit(tiny_stage(), datamodule=Data())
    assert validated.steps == expected


def test_a_run_that_is_stopped_ends_with_a_whole_step_that_is_validated(tmp_path: Path) -> None:
    validated = Validated()
    callbacks = [StopsAt(7), validated]
    trainer = trainer_for(
        tmp_path, callbacks, max_steps=12, accumulate_grad_batches=5, enable_checkpointing=False, **EVERY_FOUR
    )
    trainer.fit(tiny_stage(), datamodule=Data())
    assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 10
    assert (trainer.global_step, validated.steps) == (2, [2])


def test_time_is_up_at_a_step_s_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))  # every look at the clock is a second later
    monkeypatch.setattr(trainers.time, "monotonic", lambda: float(next(now)))
    limit, validated = TimeLimit("00:00:00:05"), Validated()
    trainer = trainer_for(tmp_path, [limit, validated], accumulate_grad_batches=2, enable_checkpointing=False)
    trainer.fit(tiny_stage(), datamodule=Data())
    monkeypatch.undo()
    assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 2 * trainer.global_step
    assert trainer.global_step == 4 and validated.steps == [4]


@pytest.mark.parametrize(
    ("steps", "said"),
    [(3, "has done 3 steps, and is given trainer.max_steps=3;"),
     (2, "has done 3 steps, and is given trainer.max_steps=2;"), (4, None)],
)  # fmt: skip
def test_a_run_with_nothing_left_to_train_says_so(
    steps: int, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for limit, path in ((3, None), (steps, tmp_path / "three.ckpt")):
        caplog.clear()
        settings = OmegaConf.create({"max_steps": limit, "max_tokens": None, "max_epochs": None, "max_time": None})
        callbacks = [NothingLeft(settings, "step")]
        trainer = trainer_for(tmp_path, callbacks, max_steps=limit, enable_checkpointing=False)
        trainer.fit(tiny_stage(), datamodule=Data(), ckpt_path=path)
        if path is None:
            assert "nothing is left" not in caplog.text
            trainer.save_checkpoint(tmp_path / "three.ckpt")
    assert trainer.global_step == max(3, steps)
    assert ("nothing is left" in caplog.text) == (said is not None) and (said or "") in caplog.text


@pytest.mark.parametrize("duration", ["1:00", "00:00:00:5", "an hour", "00:00:-1:00"])
def test_a_time_that_is_none_is_one_line(duration: str) -> None:
    with pytest.raises(UserError, match=rf"^trainer.max_time={duration}: must be DD:HH:MM:SS"):
        TimeLimit(duration)


def test_batches_of_an_epoch_are_counted_as_they_are_shared_out_now() -> None:
    data = Data()
    first = data.train_dataloader()
    taken = iter(first)
    for _ in range(5):
        next(taken)
    wider = ResumableLoader(first.dataset, 5, order=shuffled(data.rows, 3))
    wider.load_state_dict(first.state_dict())
    assert (first.batches_seen, wider.batches_seen, len(list(wider))) == (5, 2, 3)  # 10 of 23 rows, then 13 by fives
