"""Processes in sessions of their own end with the one that started them, whatever either of them is at."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_llm.runtime.parent import PARENT

STARTS = """
import os, subprocess, sys, threading

def start():
    words = [sys.executable, "-c", sys.argv[1]]
    child = subprocess.Popen(words, env={{**os.environ, "LIT_LLM_PARENT": str(os.getpid())}}, start_new_session=True)
    print(child.pid, flush=True)
{start}
sys.stdin.read()
"""
CHILD = """
import sys, time
from lit_llm.runtime import parent
{before}
parent.end_with_named(by_thread={by_thread})
print("ready", flush=True)
{works}
"""
BUSY = "sum(iter(int, 1))"  # for ever in one call, in which no other thread of python's gets a turn
THREAD = "one = threading.Thread(target=start); one.start(); one.join()"


def lives(number):
    """Whether a process is there and has not ended; one that ended stays where nobody asks how."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def family(start, **told):
    """A process, and the number of the one that it has started, which is ready."""
    child = CHILD.format(**{"before": "", "by_thread": False, "works": "time.sleep(100)"} | told)
    words = [sys.executable, "-c", STARTS.format(start=start), child]
    parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    (number,) = said - {"ready"}
    return parent, int(number)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "told",
    [{"works": BUSY}, {"by_thread": True}, {"before": "parent.end_with_the_thread = lambda: False"}],
    ids=["linux", "by a thread", "elsewhere"],
)
def test_it_ends_with_its_killed_parent(told):
    parent, number = family("start()", **told)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while lives(number) and time.monotonic() < until:
        time.sleep(0.01)
    assert not lives(number)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_end_of_the_thread_that_started_it_is_not_its_parent_s():
    parent, number = family(THREAD, by_thread=True)
    time.sleep(1)
    assert lives(number)
    parent.kill()
    parent.wait()


@pytest.mark.parametrize("before", ["", "parent.end_with_the_thread = lambda: False"])
def test_it_ends_where_its_parent_was_no_more_before_it_looked(before):
    code = CHILD.format(before=before, by_thread=False, works="time.sleep(20)")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, PARENT: str(gone.pid)}, timeout=60, check=False
    )
    assert done.returncode == 137
