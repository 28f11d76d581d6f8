"""How long this process has been running, from before its first import."""

from __future__ import annotations

import os
import time
from pathlib import Path

START_FIELD = 19  # of /proc/PID/stat behind the name in brackets: its 22nd field, proc(5)


def seconds_since_start(proc: Path = Path("/proc")) -> float:
    """Seconds by the clock since the system started this process. Where no ``proc`` tells (macOS), its CPU time stands
    in: too little where it waited, too much where several threads computed."""
    try:
        stat = (proc / "self/stat").read_text(encoding="utf-8", errors="replace")
        up = float((proc / "uptime").read_text().split()[0])
        began = int(stat.rpartition(")")[2].split()[START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.process_time()
    return up - began if up >= began else time.process_time()  # a container may have a clock of its own
