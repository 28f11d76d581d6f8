"""Signals before and beside a run: those that a scheduler sends some time before a job's limit."""

import os
import signal
import subprocess
import sys

import pytest

from lit_llm.checkpointing.signals import REQUEUE, Interrupted, StopSignals

SCRIPT = """
import multiprocessing, os, signal, sys, time
from lit_llm.checkpointing.signals import StopSignals, leave_at_once, wait_for_a_step
{setup}
os.kill(os.getpid(), signal.SIGUSR2)
signals = StopSignals()
signals.listen()
print("heard", signals.received, flush=True)
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR1)
print("heard", signals.received, flush=True)
"""


def ran(setup):
    script = SCRIPT.format(setup=setup)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_one_that_comes_while_a_run_loads_is_answered_at_its_first_step():
    done = ran("wait_for_a_step()")
    assert (done.returncode, done.stdout) == (0, f"heard {signal.SIGUSR2:d}\nheard {signal.SIGUSR2:d}\n"), done.stderr


def test_where_there_is_nothing_to_save_it_leaves_at_once_with_the_code_that_asks_to_be_started_again():
    done = ran("leave_at_once()")
    assert done.returncode == 128 + signal.SIGUSR2 and done.returncode in REQUEUE and done.stdout == ""


def test_without_either_the_process_dies_as_any_other():
    assert ran("pass").returncode == -signal.SIGUSR2


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch):
    """As where somebody logged out long before the scheduler's signal comes."""

    class Gone:
        def write(self, _):
            raise OSError(5, "Input/output error")

        flush = write

    signals = StopSignals()
    signals.listen()
    try:
        monkeypatch.setattr(sys, "stderr", Gone())
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    finally:
        signals.restore()


def test_a_worker_that_was_forked_meanwhile_does_not_die_of_it_and_says_nothing(capfd):
    """As a loader's workers: Slurm sends the signal to every process of a job."""
    signals = StopSignals()
    signals.listen()
    try:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(7 if signals.received is None else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7 and "saving" not in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)  # as whoever started this process passes it on
        assert signals.received == signal.SIGUSR2 and capfd.readouterr().err.count("saving at the end") == 1
    finally:
        signals.restore()
    with pytest.raises(SystemExit) as stopped:
        raise Interrupted(signal.SIGUSR1)
    assert stopped.value.code in REQUEUE
