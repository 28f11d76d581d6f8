"""What every figure depends on: a figure without it says nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from lit_llm.errors import UserError
from lit_llm.runtime.processor import units


def conditions(
    threads: int | None = None, device: str = "cpu", packages: tuple[str, ...] = (), nanogpt: Path | None = None
) -> list[str]:
    """Processor or GPU, cores, threads, load, versions: a line each. The load afterwards is the command's to add."""
    count = torch.get_num_threads() if threads is None else threads
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.startswith("cuda") else ""
    lines = [f"{gpu}{processor()}, {os.cpu_count()} cores, {count} threads, load before {load()}"]
    versions = [f"{name} {version}" for name in packages if (version := _version(name))]
    if nanogpt is not None:
        versions.append(f"nanoGPT {_state(nanogpt / 'model.py')}")
    lines.append(", ".join([f"Python {platform.python_version()}", f"torch {torch.__version__}", *versions]))
    return [*lines, f"this project: {_state(Path(__file__))}"]


def device_of(text: str) -> str:
    """``device=`` as torch calls it: auto is the GPU where there is one. Raises UserError where it is none here."""
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if text != "cpu" and not re.fullmatch(r"cuda(:\d+)?", text):
        raise UserError(f"device={text}: must be auto, cpu or cuda")
    if text != "cpu" and int(text.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"device={text}: is not in this machine; take cpu or auto")
    return text


def kind_of(device: str) -> str:
    """What sets machines apart as to speed, in a word: the GPU, or the processor's units."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else units()


def load() -> str:
    """The machine's, over the last 1, 5 and 15 minutes."""
    return ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def _state(file: Path) -> str:
    """The commit of the source that a file belongs to, and whether it was changed since; else the file's digest."""
    commands = (
        # Only of a repository that knows the file: an environment may lie inside of anybody's.
        "git ls-files --error-unmatch -- " + file.name,
        "git rev-parse --short=12 HEAD",
        # A race that follows another finds that one's record changed.
        "git status --porcelain --untracked-files=no -- :/ :(exclude,top)scripts/benchmarks/records",
    )
    try:
        _, commit, changed = (
            subprocess.run(each.split(), cwd=file.parent, capture_output=True, text=True, check=True, timeout=20).stdout
            for each in commands
        )
        return f"commit {commit.strip()}{', with changes' if changed.strip() else ''}"
    except (OSError, subprocess.SubprocessError):
        return f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def processor() -> str:
    """The processor's name, with the units that its figures depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    return f"{values.get('model name', platform.machine())} with {units()}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
