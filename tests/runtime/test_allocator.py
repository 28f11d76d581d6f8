"""The C allocator is told once, where there is one that listens."""

import platform
import sys

import torch

from lit_llm.runtime.allocator import keep_freed_memory


def test_it_is_set_on_glibc_and_tensors_still_work() -> None:
    assert keep_freed_memory() == (sys.platform == "linux" and platform.libc_ver()[0] == "glibc")
    assert torch.ones(1 << 20).sum() == 1 << 20


def test_it_leaves_other_systems_alone(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
