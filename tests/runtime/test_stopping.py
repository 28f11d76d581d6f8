"""A process that is told to stop does, in the middle of one long call into C."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from shutil import rmtree

import pytest

from lit_llm.runtime.stopping import ended_at_once

FORK = multiprocessing.get_context("fork")


def one_long_call():
    """Minutes in which no handler of Python's is called, nor any other step of the main thread made."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def told(pipe):
    """What a process says, which may be gone."""
    assert pipe.poll(60)
    return pipe.recv()


def busy(folder, ready):
    with ended_at_once(lambda: rmtree(folder)):
        ready.send(True)
        one_long_call()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_a_call_and_nothing_is_left(signum, tmp_path):
    (tmp_path / "left").mkdir()
    here, there = FORK.Pipe()
    process = FORK.Process(target=busy, args=(tmp_path / "left", there))
    process.start()
    try:
        assert told(here)
        time.sleep(0.2)  # until it computes
        os.kill(process.pid, signum)
        process.join(60)
        status = process.exitcode
    finally:
        process.kill()
    assert status == 128 + signum and not (tmp_path / "left").exists()


def parent_of_a_stopped_one(ready):
    with ended_at_once():
        child = FORK.Process(target=time.sleep, args=(300,))
        child.start()
        child.terminate()
        child.join(60)
        ready.send(child.exitcode)
        time.sleep(0.5)  # in which a signal that was its child's would have ended it
    ready.send("goes on")


def test_a_forked_process_is_stopped_alone():
    here, there = FORK.Pipe()
    process = FORK.Process(target=parent_of_a_stopped_one, args=(there,))
    process.start()
    assert told(here) == -signal.SIGTERM
    assert told(here) == "goes on"
    process.join(60)
    assert process.exitcode == 0


def test_afterwards_signals_are_as_they_were():
    before, threads = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)], threading.active_count()
    with pytest.raises(KeyError), ended_at_once():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        raise KeyError
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == threads and signal.set_wakeup_fd(-1) == -1


def test_another_thread_has_no_signals_to_change():
    found = []

    def inside():
        with ended_at_once():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
