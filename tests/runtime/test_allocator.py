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
    """Blocks of the size of tensors, straight from the C library: torch has its own from there."""
    code = """
import ctypes, pathlib, resource
from lit_llm.runtime.allocator import give_back_freed_memory, keep_freed_memory

def held():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
keep_freed_memory()
before, blocks = held(), [libc.malloc(2**20) for _ in range(128)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
last = libc.malloc(100)  # above them: the end of the heap is in use
for block in blocks:
    libc.free(block)
kept = held()
assert kept > before + 100 * 2**20, (before, kept)
assert give_back_freed_memory()
assert held() < kept - 100 * 2**20, (kept, held())
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own: others share this one's heap


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.slow  # it imports torch anew, and much of this package
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
