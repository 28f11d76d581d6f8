"""The processes that read documents: started when needed, ended when they hang, and one ended is one bad document."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import lit_llm
from lit_llm.data.documents.parts import broken
from lit_llm.data.documents.worker import seconds_for

WAIT = 5.0  # seconds on the clock for each of a processor: a machine that is busy is slower
NEEDED = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")
_PACKAGE = Path(lit_llm.__file__).parents[1]


class Workers:
    """Some processes, each of which reads one document at a time. May be asked from that many threads."""

    def __init__(self, count: int) -> None:
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._running: list[subprocess.Popen[bytes]] = []
        self._closed = False
        for _ in range(count):
            self._idle.put(None)

    def read(self, kind: str, data: bytes | bytearray, encoding: str) -> dict[str, Any]:
        """What ``reader.read`` gave, or {"reason", "what"} of a document that gives no text."""
        process = self._idle.get()
        try:
            if self._closed:
                return {"reason": "document_too_slow", "what": "the run ended before it was read"}
            if process is None or process.poll() is not None:
                process = _started()
                self._running.append(process)
            return _asked(process, kind, data, encoding)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Ends all processes, those too that are reading."""
        self._closed = True
        for process in self._running:
            _end(process)


def _started() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(_PACKAGE), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lit_llm.data.documents.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if _is_needed(name)}
        | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
    )


def _is_needed(name: str) -> bool:
    """Whether a process needs a variable to start; tokens and passwords are none of a document's."""
    return name in NEEDED or name.startswith("LC_")


def _asked(process: subprocess.Popen[bytes], kind: str, data: bytes | bytearray, encoding: str) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    seconds = seconds_for(len(data))
    hangs = threading.Event()

    def end() -> None:
        hangs.set()
        process.kill()

    timer = threading.Timer(WAIT * seconds, end)
    timer.daemon = True
    timer.start()
    line = b""
    try:
        task = {"kind": kind, "encoding": encoding, "size": len(data)}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.write(data)
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:  # the process has ended
        pass
    finally:
        timer.cancel()
    if line.endswith(b"\n"):
        found: dict[str, Any] = json.loads(line)
        refused = broken(found["broken"]) if "broken" in found else None
        return found if refused is None else {"reason": refused.reason, "what": str(refused)}
    _end(process)
    code = process.returncode
    if hangs.is_set() or code == -signal.SIGXCPU:
        return {"reason": "document_too_slow", "what": f"reading it takes more than {seconds} seconds of a processor"}
    if code == -signal.SIGKILL:
        return {"reason": "document_too_big", "what": "the system ended its reading, as for too much memory"}
    return {"reason": "broken_document", "what": f"its reading ended with code {code}; save it anew"}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.close()
