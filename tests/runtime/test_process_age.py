"""The age of a process is by the clock, not the time that it computed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_llm.runtime.process_age import seconds_since_start

ASKS = """
import time
time.sleep(0.5)
from lit_llm.runtime.process_age import seconds_since_start
print(seconds_since_start(), time.process_time(), time.time())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_waiting_counts():
    began = time.time()
    told = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True).stdout
    age, computed, asked = map(float, told.split())
    assert 0.5 <= age <= asked - began + 0.1  # the clock of processes ticks a hundred times a second
    assert age > computed


@pytest.mark.parametrize("stat", [None, "1 (a b) S 1", "1 (a) " + "x " * 30])
def test_where_the_system_does_not_tell_the_computed_time_stands_in(tmp_path, stat):
    if stat is not None:
        (tmp_path / "self").mkdir()
        (tmp_path / "self/stat").write_text(stat)
        (tmp_path / "uptime").write_text("100.0 1.0\n")
    before = time.process_time()
    assert before <= seconds_since_start(tmp_path) <= time.process_time()


@pytest.mark.parametrize("name", ["python", "a ) b) (c"])
def test_a_name_with_brackets_is_no_matter(tmp_path, name):
    (tmp_path / "self").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", *map(str, range(4, 22)), str(90 * ticks), "0"]
    (tmp_path / "self/stat").write_text(f"7 ({name}) {' '.join(fields)}\n")
    (tmp_path / "uptime").write_text("100.0 1.0\n")
    assert seconds_since_start(tmp_path) == pytest.approx(10.0)
