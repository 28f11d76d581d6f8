"""One process for one run folder."""

import multiprocessing
import time
from pathlib import Path

import pytest

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import written_atomically
from lit_llm.runtime.run_lock import RunLock

FORK = multiprocessing.get_context("fork")


def hold(folder: Path, held: "multiprocessing.Queue[bool]") -> None:
    with RunLock(folder):
        held.put(True)
        time.sleep(600)


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    held = FORK.Queue()
    process = FORK.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.get(timeout=200)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), RunLock(tmp_path):
        pass
    process.kill()
    process.join()
    with RunLock(tmp_path):
        pass


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".unfinished-step-000000001.ckpt.abc"
    leftover.parent.mkdir()
    leftover.touch()
    with RunLock(tmp_path):
        assert not leftover.exists()


def test_unfinished_files_of_others_below_the_folder_are_left(tmp_path: Path) -> None:
    with RunLock(tmp_path / "other_run"):
        theirs = tmp_path / "other_run" / ".unfinished-model.abc"
        theirs.touch()
        with written_atomically(tmp_path / "cache" / "rows.bin") as file, RunLock(tmp_path):
            file.write(b"rows")
        assert theirs.exists()
    assert (tmp_path / "cache" / "rows.bin").read_bytes() == b"rows"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"), RunLock(tmp_path / "file"):
        pass
