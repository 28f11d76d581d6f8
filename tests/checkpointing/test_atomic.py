"""A checkpoint is whole or absent, and every kind of damage is told."""

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lit_llm.checkpointing import atomic
from lit_llm.checkpointing.atomic import AtomicCheckpointIO, problem_with, written_atomically
from lit_llm.checkpointing.resume import CHECKPOINTS, PATTERN, checkpoint_name, find_checkpoint
from lit_llm.errors import UserError

FORK = multiprocessing.get_context("fork")
CONTENT = {"global_step": 3, "state_dict": {"weight": torch.arange(64.0)}, "plain": [1, "a", (2.0, None)]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "step-000000003.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    return path


def test_round_trip(checkpoint: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(checkpoint)
    assert torch.equal(loaded["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert loaded["plain"] == CONTENT["plain"]
    assert problem_with(checkpoint) is None


def test_every_flipped_bit_is_found(checkpoint: Path) -> None:
    whole = bytearray(checkpoint.read_bytes())
    generator = random.Random(0)
    for _ in range(200):
        place, bit = generator.randrange(len(whole)), generator.randrange(8)
        whole[place] ^= 1 << bit
        checkpoint.write_bytes(whole)
        assert "damaged" in (problem_with(checkpoint) or "")
        whole[place] ^= 1 << bit
    checkpoint.write_bytes(whole)
    assert problem_with(checkpoint) is None


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_manifest(path: Path) -> None:
    atomic.manifest_path(path).write_text("{")


def damage_no_manifest(path: Path) -> None:
    atomic.manifest_path(path).unlink()


def damage_future(path: Path) -> None:
    manifest = atomic.manifest_path(path)
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))


def damage_nan(path: Path) -> None:
    atomic.save({"state_dict": {"weight": torch.tensor([1.0, float("nan")])}}, path)


def damage_pickle(path: Path) -> None:
    atomic.save({"state_dict": {}, "code": Path("x")}, path)


DAMAGES = {
    damage_truncate: "bytes instead of",
    damage_manifest: "damaged manifest",
    damage_no_manifest: "not finished",
    damage_future: "format 2",
    damage_nan: "weight is not finite",
    damage_pickle: "cannot be read",
}


def test_a_first_checkpoint_cut_off_before_its_manifest_blocks_nothing(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage_no_manifest(checkpoint)
    assert find_checkpoint(checkpoint.parents[1]) is None
    assert f"{checkpoint}: was not finished; the run starts anew" in caplog.text


def test_several_checkpoints_without_manifests_are_no_stopped_start(checkpoint: Path) -> None:
    atomic.save(CONTENT, checkpoint.with_name("step-000000010.ckpt"))
    for path in checkpoint.parent.glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of 2 checkpoints has its manifest .*copy the manifests"):
        find_checkpoint(checkpoint.parents[1])
    assert len(list(checkpoint.parent.glob("*.ckpt"))) == 2


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_damage_is_named_and_the_one_before_is_used(
    checkpoint: Path, damage: object, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    newer = checkpoint.with_name("step-000000010.ckpt")
    atomic.save(CONTENT, newer)
    damage(newer)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        AtomicCheckpointIO().load_checkpoint(newer)
    assert find_checkpoint(checkpoint.parents[1]) == checkpoint
    assert message in caplog.text and newer.name in caplog.text
    damage_truncate(checkpoint)
    with pytest.raises(UserError, match="no checkpoint can be resumed from"):
        find_checkpoint(checkpoint.parents[1])


def test_no_checkpoint_yet_is_no_error_but_no_folder_is(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match="no such run folder"):
        find_checkpoint(tmp_path / "misspelt")


def test_full_disk_keeps_what_was_there(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = checkpoint.with_name("step-000000010.ckpt")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(os, "fsync", full)
        atomic.save(CONTENT, newer)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [checkpoint.name, checkpoint.name + ".json"]
    assert problem_with(checkpoint) is None


def save_with_little_room(path: Path, answers: "multiprocessing.Queue[str]") -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        atomic.save({"state_dict": {"weight": torch.zeros(100000)}}, path)
    except UserError as error:
        answers.put(str(error))


def test_full_disk_while_writing(checkpoint: Path) -> None:
    """A real limit on the file's size, in a process of its own."""
    answers = FORK.Queue()
    process = FORK.Process(target=save_with_little_room, args=(checkpoint.with_name("step-9.ckpt"), answers))
    process.start()
    assert "cannot be written" in answers.get(timeout=200)
    process.join(200)
    assert len(list(checkpoint.parent.iterdir())) == 2


LARGER = {"global_step": 4, "state_dict": {"weight": torch.zeros(100_000)}}


def replace_with_little_room(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    with pytest.raises(UserError, match="what was there before is kept"):
        atomic.save(LARGER, path)


def test_full_disk_keeps_the_checkpoint_whose_place_was_to_be_taken(checkpoint: Path) -> None:
    """As ``best.ckpt``, which is written again and again under one name."""
    process = FORK.Process(target=replace_with_little_room, args=(checkpoint,))
    process.start()
    process.join(200)
    assert process.exitcode == 0 and problem_with(checkpoint) is None
    assert atomic.load(checkpoint)["global_step"] == 3 and len(list(checkpoint.parent.iterdir())) == 2


@pytest.mark.parametrize("same_size", [True, False])
def test_killed_at_any_moment_of_taking_another_s_place_one_of_them_is_whole(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, same_size: bool
) -> None:
    """Before and behind each renaming; and what is left can be replaced again."""
    new = {**CONTENT, "global_step": 4, "state_dict": {"weight": torch.zeros(64)}} if same_size else LARGER
    replace, found = os.replace, []
    for moment in range(7):
        atomic.save(CONTENT, checkpoint)
        count = 0

        def killed(one: Path, other: Path, last: int = moment) -> None:
            nonlocal count
            if count == last:
                raise KeyboardInterrupt
            replace(one, other)
            count += 1

        monkeypatch.setattr(os, "replace", killed)
        with suppress(KeyboardInterrupt):
            atomic.save(new, checkpoint)
        monkeypatch.undo()
        assert problem_with(checkpoint) is None, moment
        found.append(atomic.load(checkpoint)["global_step"])
        for other in checkpoint.parent.glob(".unfinished-*"):
            other.unlink()
    assert found == [3, 3, 4, 4, 4, 4, 4], "three renamings: of a manifest for both, of the file, of its own manifest"


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_atomically(tmp_path / "file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def save_for_ever(folder: Path, step: int) -> None:
    io = AtomicCheckpointIO()
    while True:
        step += 1
        weights = {"w": torch.full((20000,), float(step))}
        io.save_checkpoint({"global_step": step, "state_dict": weights}, folder / checkpoint_name(step))
        for old in sorted(folder.glob(PATTERN))[:-2]:
            io.remove_checkpoint(old)


def finished(folder: Path, step: int) -> list[Path]:
    """Checkpoints of ``step`` or later: the one of ``step`` itself may be removed by now."""
    return [one for one in folder.glob("*.json") if one.name >= checkpoint_name(step)]


def test_killed_while_saving(tmp_path: Path) -> None:
    """SIGKILL at random times of a process that does nothing but save: the newest that verifies always loads."""
    generator, step = random.Random(1), 0
    for _ in range(20):
        process = FORK.Process(target=save_for_ever, args=(tmp_path / CHECKPOINTS, step))
        process.start()
        while not finished(tmp_path / CHECKPOINTS, step + 2):
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        process.kill()
        process.join()
        found = find_checkpoint(tmp_path)
        assert found is not None
        newest = int(found.stem.removeprefix("step-"))
        assert newest > step and atomic.load(found)["state_dict"]["w"][0] == newest
        step = newest
