"""Runs that write and read checkpoints of several processes: on with another number of them, in the background."""

import contextlib
import logging
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist

from lit_llm.callbacks.checkpoints import Checkpoints
from lit_llm.checkpointing import atomic, sharded
from lit_llm.checkpointing import random_state as random_states
from lit_llm.checkpointing.random_state import random_state, set_random_state, take_up
from lit_llm.checkpointing.resume import CHECKPOINTS, checkpoint_name, find_checkpoint
from lit_llm.checkpointing.training_state import names_in, renumbered
from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant
from lit_llm.runtime.distributed import lost_processes_told, take_the_same_rows
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.shared_tensors import whole
from lit_llm.stages.pretraining import Pretraining
from tests.processes import together
from tests.stages.training_run import Data, assert_same, sgd, tiny_model, trainer_for

from .sharded_run import BATCH, FSDP, ROWS, Small, shard, train

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
STEPS, EPOCH = 12, ROWS // BATCH
FULL = [(True, 0), (True, 1), (False, 1)]  # whether it is written in the background, and by which process


# Another number of processes


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, Any]]:
    """In one process, with tied weights and without."""
    return {tied: train(tmp_path_factory.mktemp("whole"), "one", 1, STEPS, tied=tied) for tied in (True, False)}


def _train(folder: Path, kind: str, processes: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    return train(folder, kind, processes, steps, **options)


@pytest.mark.parametrize(
    ("tied", "parts"),
    [
        (True, [("one", 1, 3), ("fsdp", 2, 6), ("one", 1, 9), ("fsdp", 2, 12)]),
        pytest.param(
            False, [("one", 1, 2), ("fsdp", 2, 4), ("fsdp", 4, 7), ("ddp", 2, 9), ("fsdp", 4, 11), ("one", 1, 12)],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, uninterrupted: dict[bool, dict[str, Any]], tied: bool, parts: list[tuple[str, int, int]]
) -> None:
    """The losses of one process to 1e-6, each row once an epoch; from a file to a folder and back."""
    seen: list[tuple[int, list[int], float]] = []
    for kind, processes, steps in parts:
        found = together(processes, _train, tmp_path / "run", kind, processes, steps,
                         {"tied": tied, "asynchronous": kind == "fsdp"})  # fmt: skip
        for each in zip(*(one["seen"] for one in found), strict=True):
            seen.append((each[0][0], [row for _, rows, _ in each for row in rows], each[0][2]))
        newest = tmp_path / "run" / CHECKPOINTS / checkpoint_name(steps)
        assert newest.is_dir() == (kind == "fsdp") and newest.exists()
    expected = uninterrupted[tied]
    assert [(step, sorted(rows)) for step, rows, _ in seen] == [(s, sorted(rows)) for s, rows, _ in expected["seen"]]
    assert sorted(row for _, rows, _ in seen[:EPOCH] for row in rows) == list(range(ROWS))
    assert [loss for *_, loss in seen] == pytest.approx([loss for *_, loss in expected["seen"]], abs=1e-6)
    assert len({loss for *_, loss in seen}) == STEPS
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found[0]["weights"][name], weight, rtol=0, atol=1e-6, msg=name)


def test_processes_that_were_not_there_get_streams_of_their_own() -> None:
    """Whenever the checkpoint is resumed so, the same; those that were there go on with theirs."""
    before = random_state()
    try:
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            random.seed(seed)
            states.append(random_state())

        def drawn(rank: int, known: list[dict[str, Any]]) -> tuple[float, float]:
            take_up(known, rank)
            return float(torch.rand(())), random.random()

        first = [drawn(rank, states) for rank in range(6)]
        assert [drawn(rank, states) for rank in range(6)] == first
        assert len({number for pair in first for number in pair}) == 12
        torch.manual_seed(2)
        random.seed(2)
        assert first[1] == (float(torch.rand(())), random.random())
        assert drawn(3, states[:1]) != first[3], "of another checkpoint another stream"
    finally:
        set_random_state(before)


def drawn_by_peers(kept: dict[str, Any]) -> list[Any]:
    """Numbers of two processes that compute one model, which have drawn unlike ones before: of a new run, of what it
    kept, and of what a run of one process kept."""
    dist.init_process_group("gloo")
    take_the_same_rows(2)
    random_states.validation_is_next = lambda _: False  # type: ignore[assignment]
    rank, stage = dist.get_rank(), SimpleNamespace(device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(global_rank=rank, world_size=2)
    found: list[Any] = []
    own = kept
    for begins_with in (None, "own", kept):
        torch.manual_seed(rank)
        random.seed(rank)
        callback = random_states.RandomState()
        if begins_with is not None:
            callback.load_state_dict(own if begins_with == "own" else begins_with)  # type: ignore[arg-type]
        callback.on_train_start(trainer, stage)  # type: ignore[arg-type]
        own = callback.state_dict()
        found.append((len(own["processes"]), float(torch.rand(())), random.random()))
    return found


def test_processes_that_compute_one_model_draw_alike() -> None:
    """What adapters leave out of one input is the same in each, whatever the first has drawn and what is resumed."""
    before = random_state()
    try:
        torch.manual_seed(5)
        random.seed(5)
        kept = {"processes": [random_state()]}
        wanted = float(torch.rand(())), random.random()
        one, other = together(2, drawn_by_peers, kept)
    finally:
        set_random_state(before)
    assert one == other and one[0] == one[1] != one[2] == (1, *wanted)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    module = Small()
    frozen = torch.optim.SGD([each for name, each in module.named_parameters() if "norm" not in name], lr=1.0)
    told = torch.optim.SGD(module.parameters(), lr=1.0)
    state = told.state_dict() | {"names": names_in(told, module)}
    with pytest.raises(UserError, match=r"^resume: the optimizer groups other parameters .* such as model\.backbone\."):
        renumbered(state, frozen, module)
    turned = torch.optim.SGD(list(module.parameters())[::-1], lr=1.0)
    told.state = {each: {"momentum_buffer": each * 2} for each in module.parameters()}  # type: ignore[assignment]
    state = told.state_dict() | {"names": names_in(told, module)}
    turned.load_state_dict(renumbered(state, turned, module))
    for each in module.parameters():
        assert torch.equal(turned.state[each]["momentum_buffer"], each * 2)


class Die(L.Callback):
    """The second process is killed in the middle of a step, which begins while the one before is written."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_rank == 1 and trainer.global_step == 5:
            (Path(trainer.default_root_dir) / "killed").write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)


def survive(folder: Path) -> tuple[str, float]:
    """What the process says that is not killed, and when."""
    try:
        with lost_processes_told(RunFolder(folder).kept):
            train(folder, "fsdp", 2, STEPS, [Die()], asynchronous=True, every_n_steps=1)
    except UserError as error:
        return str(error), time.monotonic()
    raise AssertionError("nobody died")


def test_a_killed_process_ends_the_others_with_one_line_and_the_run_goes_on(
    tmp_path: Path, uninterrupted: dict[bool, dict[str, Any]]
) -> None:
    said, ended = together(2, survive, tmp_path, dies=True)[0]
    assert ended - float((tmp_path / "killed").read_text()) < 100  # and not half an hour, as long as they would wait
    kept = find_checkpoint(tmp_path)
    assert kept is not None and kept.name in (checkpoint_name(4), checkpoint_name(5))
    assert said == (
        "process 0: another process of this run is no more (killed, or out of memory, where it says nothing itself); "
        f"{kept} is kept, resume={tmp_path} goes on from it"
    )
    resumed = train(tmp_path, "one", 1, STEPS)
    for name, weight in uninterrupted[True]["weights"].items():
        torch.testing.assert_close(resumed["weights"][name], weight, rtol=0, atol=1e-6, msg=name)


# What two processes do, in one go


class Steps(L.Callback):
    """What was so before each step was saved."""

    def __init__(self, run: Path) -> None:
        self.run, self.busy, self.weights = run, [], {}

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        self.busy.append(trainer.checkpoint_callback._writer.busy)  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:  # noqa: ARG002
        self.weights[trainer.global_step] = pl_module.weights()


class FullDisk(L.Callback):
    """From a step on one process cannot write files of more than so many bytes."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank, self.reached = step, rank, 0

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        self.reached, writer = trainer.global_step, trainer.checkpoint_callback._writer  # type: ignore[union-attr]
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            while writer is not None and writer.busy:
                time.sleep(0.001)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


@contextlib.contextmanager
def slowly(begun: list[bool], steps: int) -> Iterator[None]:
    """Each writing of shards takes until so many steps have begun; 60 seconds where training waits for it."""
    write = sharded.shards.write

    def slow(*args: Any) -> Any:
        until = time.monotonic() + 60
        while len(begun) < steps and time.monotonic() < until:
            time.sleep(0.001)
        return write(*args)

    sharded.shards.write = slow  # type: ignore[assignment]
    try:
        yield
    finally:
        sharded.shards.write = write


def failure(folder: Path, asynchronous: bool, rank: int) -> tuple[str, int]:
    full = FullDisk(3, rank)
    try:
        train(folder, "fsdp", 2, 9, [full], asynchronous=asynchronous, every_n_steps=1)
    except UserError as error:
        return str(error), full.reached
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "", full.reached


class ShardedPretraining(Pretraining):
    def configure_model(self) -> None:
        shard(self.model, self.device_mesh["data_parallel"])  # type: ignore[index]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: whole(each).clone() for name, each in self.named_parameters()}


def of_two(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # bitwise the same with dropout
    found["once"] = train(folder / "once", "fsdp", 2, 8, dropout=0.3)
    train(folder / "twice", "fsdp", 2, 5, dropout=0.3)
    found["twice"] = train(folder / "twice", "fsdp", 2, 8, dropout=0.3)
    # in the background
    steps = Steps(folder / "background")
    with slowly(steps.busy, 7):
        train(folder / "background", "fsdp", 2, 9, [steps], asynchronous=True, every_n_steps=4, keep=2)
    found["busy"], found["weights"] = steps.busy, steps.weights
    # a full disk
    for asynchronous, rank in FULL:
        place = folder / f"full-{asynchronous}-{rank}"
        found[asynchronous, rank] = failure(place, asynchronous, rank)
        dist.barrier()
        found[asynchronous, rank, "left"] = sorted(path.name for path in (place / CHECKPOINTS).iterdir())
        dist.barrier()
    # a stage, whose best weights replace those before
    stage = ShardedPretraining(model=tiny_model(), optimizer=partial(sgd, lr=0.05), schedule=constant)
    found["stage"] = stage_of_two(folder / "stage", stage)
    return found


def stage_of_two(folder: Path, stage: ShardedPretraining) -> dict[str, Any]:
    class Watch(Checkpoints):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            super().on_validation_end(trainer, pl_module)
            losses.append((float(trainer.callback_metrics["val/loss"]), stage.weights()))

    losses: list[tuple[float, dict[str, torch.Tensor]]] = []
    strategy = FSDP(data_parallel_size=2, tensor_parallel_size=1)
    trainer = trainer_for(folder, [Watch(monitor="val/loss", asynchronous=True)], max_steps=8, val_check_interval=2,
                          devices=2, strategy=strategy, gradient_clip_val=1.0)  # fmt: skip
    trainer.fit(stage, datamodule=Data(32))
    return {"losses": losses, "weights": stage.weights()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder, and what the first of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    first, second = together(2, of_two, folder)
    for key in (key for key in first if isinstance(key, tuple)):
        assert first[key] == second[key], key
    return folder, first


def test_a_sharded_run_that_was_resumed_is_bitwise_the_one_that_was_not(two: tuple[Path, dict[str, Any]]) -> None:
    found = two[1]
    assert found["twice"]["seen"] == found["once"]["seen"][5:]
    assert_same(found["twice"]["weights"], found["once"]["weights"])


def test_training_goes_on_while_a_checkpoint_is_written(two: tuple[Path, dict[str, Any]]) -> None:
    """Steps are made meanwhile; the second waits for the first; each holds the weights of its own step."""
    folder, found = two
    assert found["busy"][:4] == [False] * 4 and found["busy"][4:7] == [True] * 3
    place = folder / "background" / CHECKPOINTS
    assert sorted(path.name for path in place.iterdir()) == [checkpoint_name(8), checkpoint_name(9)]
    for step in (8, 9):
        content = atomic.load(place / checkpoint_name(step))
        assert content["global_step"] == step
        for name, weight in found["weights"][step].items():
            assert torch.equal(content["state_dict"][name], weight), name
    assert not torch.equal(found["weights"][8]["scale.weight"], found["weights"][9]["scale.weight"])


@pytest.mark.parametrize(("asynchronous", "rank"), FULL)
def test_a_full_disk_of_one_process_fails_all_with_one_line(
    two: tuple[Path, dict[str, Any]], asynchronous: bool, rank: int
) -> None:
    folder, found = two
    said, reached = found[asynchronous, rank]
    failed = folder / f"full-{asynchronous}-{rank}" / CHECKPOINTS / checkpoint_name(4)
    assert said == f"{failed}: cannot be written (File too large); what was there before is kept"
    assert reached <= 3 + 2 * asynchronous
    assert found[asynchronous, rank, "left"] == [checkpoint_name(step) for step in (1, 2, 3)]
    assert find_checkpoint(failed.parents[1]) == failed.with_name(checkpoint_name(3))


def test_the_best_weights_replace_those_before_and_a_stage_is_made_from_them(two: tuple[Path, dict[str, Any]]) -> None:
    folder, found = two
    losses = found["stage"]["losses"]
    best = folder / "stage" / CHECKPOINTS / "best.ckpt"
    assert len(losses) == 4 and losses[0][0] > min(loss for loss, _ in losses)
    content = atomic.load(best)
    assert "optimizer_states" not in content
    stage = Pretraining.load_from_checkpoint(best)
    for name, weight in min(losses, key=lambda pair: pair[0])[1].items():
        assert torch.equal(dict(stage.named_parameters())[name], weight), name
    newest = Pretraining.load_from_checkpoint(best.with_name(checkpoint_name(8)))
    assert all(torch.equal(each, found["stage"]["weights"][name]) for name, each in newest.named_parameters())
