"""What the processor can do, asked in one place: precisions and kernels are chosen by it, records are named by it."""

from __future__ import annotations

import functools
from pathlib import Path

import torch


@functools.cache
def has_bf16() -> bool:
    """Whether it multiplies in bfloat16 itself (AMX or AVX512-BF16): else the conversions cost more than they save."""
    flags = _flags()
    return "amx_bf16" in flags or "avx512_bf16" in flags


@functools.cache
def has_narrow_vectors() -> bool:
    """Whether torch computes here with AVX2, vectors of 256 bits, as on most laptops and desktops."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def units() -> str:
    """What sets processors apart as to speed, in a word: units for bfloat16, else the vectors of torch's kernels."""
    flags = _flags()
    found = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    return " and ".join(found) or torch.backends.cpu.get_cpu_capability()


def _flags() -> frozenset[str]:
    """Names as Linux has them; torch's own answer where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() == "flags":
            return frozenset(values.split())
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return frozenset(name for name, value in known.items() if value is True)
