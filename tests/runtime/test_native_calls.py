"""A process in a long call of a library is stopped as in any other, and clears up; what a call raises comes through."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from lit_llm.runtime.native_calls import Left, heard

LEARNS = """
import os, signal, tempfile, threading, time
from lit_llm.text.bpe import train_bpe
signal.signal(signal.SIGINT, signal.default_int_handler)

def texts():
    for number in range(10**9):
        if number == 20000:
            print("learns", flush=True)
        yield f"word{number} and {number * 7919 % 10007} more"

with tempfile.TemporaryDirectory(dir=".") as folder:
    train_bpe(texts(), 60000, show_progress=False)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_learning_a_vocabulary_is_stopped_at_once_and_nothing_is_left(signum, tmp_path):
    words = [sys.executable, "-c", LEARNS]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "learns\n" and list(tmp_path.iterdir())
            process.send_signal(signum)
            assert process.wait(30) == 128 + signum, process.stderr.read()
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


def test_what_the_call_and_what_it_reads_raise_comes_through():
    def texts():
        yield "a"
        raise KeyError("of the texts")

    with pytest.raises(KeyError, match="of the texts"):
        heard(lambda ended_with_us: list(ended_with_us(texts())))
    found = []
    heard(lambda ended_with_us: found.extend(ended_with_us(["a", "b"])))
    assert found == ["a", "b"]


def test_what_is_read_ends_when_nobody_waits(monkeypatch):
    monkeypatch.setattr("lit_llm.runtime.native_calls.ends_without_waiting", lambda code: ended.append(code))
    ended, raised, done = [], [], threading.Event()

    def call(ended_with_us):
        try:
            for _ in ended_with_us(iter(int, 1)):
                time.sleep(0.01)
        except Left as error:
            raised.append(error)
        done.set()

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(TimeoutError):
            heard(call)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done.wait(10) and raised and ended == [130]
