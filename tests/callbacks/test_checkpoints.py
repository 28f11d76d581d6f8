"""When checkpoints are written and which are kept."""

import gc
import logging
import os
import resource
import signal
import time
import weakref
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_llm.callbacks.checkpoints import Checkpoints
from lit_llm.checkpointing import atomic
from lit_llm.checkpointing.resume import checkpoint_name, find_checkpoint
from lit_llm.checkpointing.signals import Interrupted
from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant
from lit_llm.stages.pretraining import Pretraining
from tests.stages.training_run import Data, DieAt, assert_same, run, sgd, tiny_model, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def steps(folder: Path) -> list[int]:
    return [int(path.stem[5:]) for path in sorted((folder / "checkpoints").glob("step-*.ckpt"))]


@pytest.mark.parametrize(("every", "keep", "expected"), [(3, 2, [9, 12]), (5, 9, [5, 10, 12]), (None, 2, [12])])
def test_the_newest_are_kept(tmp_path: Path, every: int | None, keep: int, expected: list[int]) -> None:
    run(tmp_path, every_n_steps=every, keep=keep)
    assert steps(tmp_path) == expected
    assert all(atomic.problem_with(path) is None for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert {path.suffix for path in (tmp_path / "checkpoints").iterdir()} == {".ckpt", ".json"}


def test_the_best_weights_are_those_of_the_least_loss(tmp_path: Path) -> None:
    seen: list[tuple[float, torch.Tensor]] = []

    class Watch(Checkpoints):
        def on_validation_end(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
            super().on_validation_end(trainer, pl_module)
            seen.append((float(trainer.callback_metrics["val/loss"]), pl_module.model.output_weight.detach().clone()))

    trainer = trainer_for(tmp_path, [Watch(monitor="val/loss")], max_steps=8, val_check_interval=2)
    trainer.fit(tiny_stage(), datamodule=Data(24))
    assert len(seen) == 4
    best = atomic.load(tmp_path / "checkpoints" / "best.ckpt")
    assert torch.equal(best["state_dict"]["model.lm_head.weight"], min(seen, key=lambda pair: pair[0])[1])
    assert "optimizer_states" not in best


def test_a_misspelt_monitor_is_named(tmp_path: Path) -> None:
    stage = tiny_stage()
    before = stage.model.output_weight.detach().clone()
    trainer = trainer_for(tmp_path, [Checkpoints(monitor="val/los")], max_steps=4, val_check_interval=2)
    with pytest.raises(UserError, match=r"monitor: val/los; nothing logs it; there are val/loss, val/general/\.\.\."):
        trainer.fit(stage, datamodule=Data())
    assert torch.equal(stage.model.output_weight, before)
    # What cannot be told before is told by the first validation, and by the last one without losing the run.
    trainer = trainer_for(tmp_path, [Checkpoints(monitor="val/general/los")], max_steps=4, val_check_interval=2)
    with pytest.raises(UserError, match=r"monitor: val/general/los; nothing logs it; there are .*val/general/loss"):
        trainer.fit(tiny_stage(), datamodule=Data())
    trainer_for(tmp_path, [Checkpoints(monitor="val/general/los")], max_steps=4).fit(tiny_stage(), datamodule=Data())
    assert steps(tmp_path) == [4]


def test_a_folder_that_cannot_be_written_fails_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    stage = tiny_stage()
    before = stage.model.output_weight.detach().clone()
    with pytest.raises(UserError, match="cannot be written"):
        trainer_for(tmp_path, [Checkpoints()], max_steps=2).fit(stage, datamodule=Data())
    assert torch.equal(stage.model.output_weight, before)


def test_a_trial_run_leaves_nothing(tmp_path: Path) -> None:
    trainer_for(tmp_path, [Checkpoints(every_n_steps=1)], fast_dev_run=2).fit(tiny_stage(), datamodule=Data())
    assert list(tmp_path.iterdir()) == []


def test_by_the_clock(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, [Checkpoints(every_minutes=1e-9, keep=9, at_end=False)], max_steps=3)
    trainer.fit(tiny_stage(), datamodule=Data())
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("values", [{"every_n_steps": 0}, {"keep": 0}])
def test_bad_values_are_named(values: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"callbacks.checkpoints.{next(iter(values))}"):
        Checkpoints(**values)


@pytest.mark.parametrize("every", [1, 3])
def test_what_is_written_in_the_background_is_what_would_be_written_at_once(tmp_path: Path, every: int) -> None:
    """Bit for bit, though training goes on: with Muon, dropout and accumulation."""
    kept = {}
    for asynchronous in (False, True):
        checkpoints = Checkpoints(every_n_steps=every, keep=20, monitor="val/loss", asynchronous=asynchronous)
        run(tmp_path / str(asynchronous), checkpoints=checkpoints)
        files = (tmp_path / str(asynchronous) / "checkpoints").glob("*.ckpt")
        kept[asynchronous] = {path.name: atomic.load(path) for path in files}
    assert len(kept[True]) == 12 // every + 1
    assert_same(kept[True], kept[False])


def test_a_background_write_that_fails_fails_the_run_a_step_later(tmp_path: Path) -> None:
    reached = []

    class FullDisk(Checkpoints):
        def on_train_batch_end(self, trainer, *args) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == 5:
                self._writer.wait()  # step 4's, which is not to fail
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            reached.append(trainer.global_step)
            super().on_train_batch_end(trainer, *args)
            while trainer.global_step == 5 and self._writer.busy:
                time.sleep(0.001)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / "checkpoints" / "step-000000005.ckpt"
    try:
        trainer = trainer_for(tmp_path, [FullDisk(every_n_steps=1, asynchronous=True)], max_steps=12)
        with pytest.raises(UserError, match=f"^{path}: cannot be written \\(File too large\\)"):
            trainer.fit(tiny_stage(), datamodule=Data())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, before)
    assert max(reached) == 6 and steps(tmp_path) == [3, 4]
    assert not list((tmp_path / "checkpoints").glob(".unfinished*"))


@pytest.mark.parametrize("signum", [signal.SIGTERM])
def test_a_signal_waits_for_what_is_being_written(tmp_path: Path, signum: int) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, checkpoints=Checkpoints(every_n_steps=2, keep=2, asynchronous=True), more=[DieAt(7, signum)])
    assert steps(tmp_path) == [6, 8]
    assert all(atomic.problem_with(path) is None for path in (tmp_path / "checkpoints").glob("*.ckpt"))


def test_a_stock_checkpoint_io_is_refused(tmp_path: Path) -> None:
    trainer = L.Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, logger=False,
                        callbacks=[Checkpoints(asynchronous=True)])  # fmt: skip
    with pytest.raises(UserError, match=r"^callbacks.checkpoints.asynchronous: true; needs Trainer\(plugins="):
        trainer.fit(tiny_stage(), datamodule=Data())


class TwoUpdates(Pretraining):
    """A stage that makes its own updates, several a batch, and says itself when it is done."""

    automatic_optimization = False  # type: ignore[assignment]

    def training_step(self, batch, batch_idx: int) -> None:  # type: ignore[no-untyped-def,override]
        for _ in range(2):
            self.manual_backward(self.loss(batch)[0])
            self.optimizers().step()  # type: ignore[union-attr]
        self.trainer.should_stop = batch_idx == 4


def test_steps_are_batches_where_a_stage_updates_itself(tmp_path: Path) -> None:
    stage = TwoUpdates(model=tiny_model(), optimizer=partial(sgd, lr=0.01), schedule=constant)
    trainer = trainer_for(
        tmp_path, [Checkpoints(every_n_steps=2, keep=9)], max_steps=-1, max_epochs=9, limit_val_batches=0
    )
    trainer.fit(stage, datamodule=Data())
    assert trainer.global_step == 10 and steps(tmp_path) == [2, 4, 5]


def test_only_checkpoints_that_verify_are_counted_and_removed(tmp_path: Path) -> None:
    """A file without a manifest stays with its bytes, also under a name that the new run takes, and keeps no good one
    out; the run can be resumed."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-000000006.ckpt").write_bytes(b"the only copy")
    (folder / "step-000000090.ckpt").write_bytes(b"of an older run")
    run(tmp_path, every_n_steps=3, keep=2)
    assert steps(tmp_path) == [9, 12, 90]
    assert (folder / "step-000000006.ckpt.unreadable").read_bytes() == b"the only copy"
    assert (folder / "step-000000090.ckpt").read_bytes() == b"of an older run"
    assert find_checkpoint(tmp_path) == folder / "step-000000012.ckpt"


def test_one_damaged_on_the_way_is_not_counted(tmp_path: Path) -> None:
    class Damage(Checkpoints):
        def _save(self, trainer) -> None:  # type: ignore[no-untyped-def]
            super()._save(trainer)
            newest = self.folder(trainer) / "step-000000006.ckpt"
            if newest.is_file() and newest.stat().st_size > 100:
                newest.write_bytes(b"cut off")

    trainer = trainer_for(tmp_path, [Damage(every_n_steps=3, keep=2)], max_steps=12)
    trainer.fit(tiny_stage(), datamodule=Data(24))
    assert steps(tmp_path) == [6, 9, 12]
    assert [atomic.problem_with(tmp_path / "checkpoints" / checkpoint_name(step)) is None for step in (6, 9, 12)] == [
        False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_after_training_signals_are_what_they_were_and_nothing_holds_the_trainer(tmp_path: Path, fails: bool) -> None:
    class Fails(Checkpoints):
        def on_train_batch_end(self, trainer, *args) -> None:  # type: ignore[no-untyped-def]
            super().on_train_batch_end(trainer, *args)
            if fails:
                raise UserError("stop")

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    trainer = trainer_for(tmp_path, [Fails()], max_steps=2)
    held = weakref.ref(trainer)
    try:
        trainer.fit(tiny_stage(), datamodule=Data())
        assert not fails
    except UserError:
        assert fails
    assert {signum: signal.getsignal(signum) for signum in before} == before
    del trainer
    gc.collect()
    assert held() is None  # with it the weights and the optimizer's state


@pytest.mark.parametrize("at_end", [True, False])
def test_a_signal_after_the_last_step_stops_the_run_behind_its_checkpoint(tmp_path: Path, at_end: bool) -> None:
    class Stopped(Checkpoints):
        def on_validation_end(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
            super().on_validation_end(trainer, pl_module)
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = trainer_for(tmp_path, [Stopped(at_end=at_end)], max_steps=4, val_check_interval=4)
    with pytest.raises(Interrupted):
        trainer.fit(tiny_stage(), datamodule=Data())
    assert steps(tmp_path) == [4]
