"""A run that was stopped and resumed has, bit for bit, the weights of one that was not."""

import logging
import multiprocessing
import signal
from pathlib import Path

import lightning as L
import pytest

from lit_llm.checkpointing.signals import Interrupted
from lit_llm.errors import UserError
from tests.stages.training_run import DieAt, assert_same, run, state_of

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Crash(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:  # noqa: ARG002
        if trainer.global_step == self.step:
            raise ZeroDivisionError


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    return {n: state_of(*run(tmp_path_factory.mktemp("whole"), accumulate=n)) for n in (1, 2, 5)}


# 12 batches an epoch: with 5 to a window the last one of an epoch is short; steps 6 and 3 end an epoch.
@pytest.mark.parametrize(("accumulate", "stop"), [(1, 5), (2, 1), (2, 6), (2, 7), (2, 11), (5, 3), (5, 4), (5, 7)])
def test_resumed_after_a_crash(tmp_path: Path, uninterrupted: dict, accumulate: int, stop: int) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, accumulate=accumulate, every_n_steps=1, more=[Crash(stop)])
    resumed = run(tmp_path, accumulate=accumulate, every_n_steps=1, resume=True)
    assert_same(state_of(*resumed), uninterrupted[accumulate])


def test_five_resumes_in_a_chain(tmp_path: Path, uninterrupted: dict) -> None:
    for number, stop in enumerate((2, 3, 6, 7, 10)):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, every_n_steps=1, more=[Crash(stop)], resume=number > 0)
    assert_same(state_of(*run(tmp_path, every_n_steps=1, resume=True)), uninterrupted[2])


@pytest.mark.parametrize("steps", [4, 6])
def test_a_finished_run_can_be_prolonged(tmp_path: Path, uninterrupted: dict, steps: int) -> None:
    run(tmp_path, max_steps=steps, every_n_steps=None)
    assert_same(state_of(*run(tmp_path, every_n_steps=None, resume=True)), uninterrupted[2])


def test_a_run_of_epochs_can_be_prolonged_but_not_cut(tmp_path: Path, uninterrupted: dict) -> None:
    run(tmp_path, max_steps=-1, max_epochs=1, every_n_steps=None)
    longer = run(tmp_path, max_steps=-1, max_epochs=2, every_n_steps=None, resume=True)
    assert_same(state_of(*longer), uninterrupted[2])
    with pytest.raises(UserError, match=r"^trainer.max_epochs=1: the run has trained 2 epochs already; give more$"):
        run(tmp_path, max_steps=-1, max_epochs=1, every_n_steps=None, resume=True)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_at_the_end_of_the_step(tmp_path: Path, uninterrupted: dict, signum: int) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, every_n_steps=None, more=[DieAt(7, signum)])
    assert stopped.value.code == 128 + signum
    assert signal.getsignal(signum) == before
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*.ckpt"))] == ["step-000000008.ckpt"]
    assert_same(state_of(*run(tmp_path, every_n_steps=None, resume=True)), uninterrupted[2])


def test_killed_in_the_middle(tmp_path: Path, uninterrupted: dict) -> None:
    """SIGKILL in the middle of a window: the process dies there and then, nothing of it is cleaned up."""
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(tmp_path,), kwargs={"more": [DieAt(7, signal.SIGKILL)]}
    )
    process.start()
    process.join(250)
    assert process.exitcode == -signal.SIGKILL
    resumed = run(tmp_path, resume=True)
    assert_same(state_of(*resumed), uninterrupted[2])
