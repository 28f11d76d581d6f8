"""Processes that are ended from outside, and those whose parent is."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from lit_llm.data.shards.processes import in_processes, nothing_unfinished
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import folder_beside


def _work(task):
    if task == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "refuses":
        raise UserError("data.x=1: is wrong")
    if task == "fails":
        raise ZeroDivisionError("one")
    return os.getpid(), task * 2


@pytest.mark.parametrize("processes", [1, 3])
def test_every_task_is_done_once(processes):
    taken = []

    def tasks():
        for number in range(10):
            taken.append(number)
            yield number

    done = []
    for task, (process, double) in in_processes(_work, tasks(), processes):
        assert double == 2 * task and (process == os.getpid()) == (processes == 1)
        assert len(taken) <= len(done) + processes, "a task is taken when a process is free for it"
        done.append(task)
    assert sorted(done) == taken == list(range(10))


def test_errors_come_as_one_line_or_with_their_place():
    with pytest.raises(UserError, match=r"ended from outside \(code -9, as for too much memory\).*prepare_workers=1"):
        list(in_processes(_work, [1, "dies", 2], 2))
    with pytest.raises(UserError, match=r"^data.x=1: is wrong$"):
        list(in_processes(_work, [1, "refuses"], 2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: one"):
        list(in_processes(_work, ["fails", 1], 2))


ORPHANS = """
import os, sys, time
from lit_llm.data.shards.processes import in_processes

def work(task):
    os.write(1, f"{os.getpid()}\\n".encode())  # a line at once: both write into one pipe
    time.sleep(0.2)

for _ in in_processes(work, iter(range(1000)), 2):
    pass
"""


def lives(number):
    """Whether a process is there and has not ended; one that ended stays where nobody asks how."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_they_end_when_their_parent_was_killed():
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    numbers = set()
    while len(numbers) < 2:
        numbers.add(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    until = time.monotonic() + 100
    while (left := set(filter(lives, numbers))) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left


def _begins(folder, number):
    with folder_beside(folder / f"{number}"):
        time.sleep(300)


def test_what_they_had_begun_to_write_is_gone_when_their_parent_is_interrupted(tmp_path):
    begun = []

    def stop(*_):
        begun.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(KeyboardInterrupt), nothing_unfinished(tmp_path, "."):
            list(in_processes(partial(_begins, tmp_path), range(2), 2))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(begun) == 2 and not list(tmp_path.iterdir())
