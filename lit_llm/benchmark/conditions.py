"""What every figure depends on: a figure without it says nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch


def conditions(threads: int | None = None, device: str = "cpu", packages: tuple[str, ...] = ()) -> list[str]:
    """Processor or GPU, cores, threads, load, versions: a line each."""
    count = torch.get_num_threads() if threads is None else threads
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    lines = [f"{processor()}, {os.cpu_count()} cores, {count} threads, load before {load}"]
    if device.startswith("cuda"):
        lines.insert(0, torch.cuda.get_device_name(device))
    versions = [f"{name} {version}" for name in packages if (version := _version(name))]
    lines.append(", ".join([f"Python {platform.python_version()}", f"torch {torch.__version__}", *versions]))
    return lines


def processor() -> str:
    """The processor's name, with the matrix units that a figure in bfloat16 depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = values.get("flags", "").split()
    units = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    return values.get("model name", platform.machine()) + (f" with {' and '.join(units)}" if units else "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
