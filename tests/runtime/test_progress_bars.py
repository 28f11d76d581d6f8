"""A bar in a terminal, and few lines in a log file."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
from lightning.pytorch.callbacks import ProgressBar

from lit_llm.callbacks.progress import Progress
from lit_llm.config.command_line import compose
from lit_llm.runtime import progress_bars
from lit_llm.runtime.progress_bars import Bar, at_work
from lit_llm.training import trainer
from lit_llm.training.build import Parts


def test_a_process_that_was_forked_while_another_thread_wrote_a_line_is_not_stuck():
    held, done = threading.Event(), threading.Event()

    def write():
        with Bar.get_lock():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with Bar(total=1) as bar:
            bar.update()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()
    thread.join()


def test_a_process_that_is_killed_while_it_writes_a_line_takes_no_lock_along():
    child = os.fork()
    if child == 0:
        Bar.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    signal.alarm(20)
    try:
        with Bar(total=1) as bar:
            bar.update()
    finally:
        signal.alarm(0)


def work(monkeypatch, capsys, seconds):
    """What a hundred updates write when so many seconds go by in each."""
    now = [1000.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now[0])
    with Bar(total=100, desc="answers", mininterval=0) as bar:
        for _ in range(100):
            now[0] += seconds
            bar.set_postfix_str("at work")
            bar.update()
    return capsys.readouterr().err


def test_a_log_file_gets_a_line_every_quarter_of_a_minute_and_the_last(monkeypatch, capsys):
    text = work(monkeypatch, capsys, seconds=1.5)  # 150 s
    assert "\r" not in text and 10 <= len(text.splitlines()) <= 11
    assert all(line.startswith("answers: ") for line in text.splitlines()) and "100/100" in text.splitlines()[-1]
    assert work(monkeypatch, capsys, seconds=0.1) == ""


def test_one_whose_next_step_does_not_come_is_shown_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "EVERY_SECONDS", 0.3)
    monkeypatch.setattr(progress_bars, "LOOKS_EVERY", 0.05)
    with Bar(total=4, desc="tokenize") as bar:
        bar.update()
        time.sleep(1.2)
    with at_work("hold some out"):
        time.sleep(0.8)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("tokenize:  25%") and "1/4" in line]
    assert 2 <= len(told) <= 6 and "hold some out: 00:00" in lines
    time.sleep(0.3)
    assert not capsys.readouterr().err and progress_bars._Shower.thread is None, "nothing is left at work"


def test_a_terminal_is_redrawn_as_ever(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    text = work(monkeypatch, capsys, seconds=0.1)
    assert text.count("\r") > 100 and "100/100" in text


def test_a_terminal_that_does_not_say_how_wide_it_is_gets_bars_too():
    """Of 0 columns, as that of script(1) is, or of some containers: tqdm alone draws nothing there."""
    ours, theirs = pty.openpty()
    code = "from lit_llm.runtime.progress_bars import Bar\nwith Bar(total=2, desc='read') as bar: bar.update()"
    place = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=place, check=True)
    assert b"read:  50%" in os.read(ours, 10**5)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_without_callbacks_has_the_bar_all_the_same(monkeypatch, tmp_path, terminal):
    """Lightning's default bar, which callbacks=none would bring, writes into a log file as into a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    stage = type("Stage", (), {"automatic_optimization": True})()
    cfg = compose("train", ["callbacks=none", "trainer=cpu", "~logger"])
    made = trainer.build(Parts(cfg, None, None, None, stage, []), tmp_path)
    (bar,) = [each for each in made.callbacks if isinstance(each, ProgressBar)]
    assert isinstance(bar, Progress)
