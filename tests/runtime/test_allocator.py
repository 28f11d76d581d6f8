"""The C allocator is told once, where there is one that listens."""

import platform
import subprocess
import sys

import pytest
import torch

from lit_llm.runtime.allocator import give_back_freed_memory, keep_freed_memory


def test_it_is_set_on_glibc_and_tensors_still_work() -> None:
    assert keep_freed_memory() == (sys.platform == "linux" and platform.libc_ver()[0] == "glibc")
    assert torch.ones(1 << 20).sum() == 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_is_kept_is_given_back() -> None:
    code = """
import torch
from lit_llm.runtime.allocator import give_back_freed_memory, keep_freed_memory
from lit_llm.training.plan.memory import process_bytes
keep_freed_memory()
tensors = [torch.ones(1 << 18) for _ in range(128)]  # 128 MiB
last = torch.ones(1)  # above them: the end of the heap is in use
del tensors
held = process_bytes()
assert give_back_freed_memory()
assert process_bytes() < held - 100 * 2**20, (held, process_bytes())
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own: others share this one's heap


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_holes_between_what_stays_are_no_heap() -> None:
    """What is gathered for one layer after the other, while a part of each layer's gradient stays."""
    code = """
import torch
from lit_llm.runtime.allocator import GATHERED, keep_freed_memory
from lit_llm.training.plan.memory import process_bytes
keep_freed_memory(GATHERED)
before, parts = process_bytes(), []
for layer in range(16):
    gathered = [torch.ones(1 << 20) for _ in range(3)]  # 12 MiB
    parts.append(gathered[1][: 1 << 18].clone())  # 1 MiB, all of them 16
    parts.append(torch.ones(1 << 19))  # 2 MiB, 32
    del gathered
held = process_bytes() - before
assert held < 58 * 2**20, held  # a heap with holes: 74
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_leaves_other_systems_alone(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
    assert give_back_freed_memory() is False
