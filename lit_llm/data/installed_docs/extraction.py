"""Reads the docstrings of many files in processes of their own: ``python -m <this module> < jobs``.

A job is a line of JSON, [file, module]; the answer is a line of JSON, the documented members of that file. Plain
subprocesses, since a forked one inherits locks of threads and a spawned one imports the caller's program again.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_llm.data.installed_docs.docstrings import members
from lit_llm.data.installed_docs.prose import parse
from lit_llm.runtime.parent import PARENT, end_with_named

_TWINS = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime", "_pylong": "int"}

Job = tuple[str, str]  # file, module


@dataclass(frozen=True, slots=True)
class Entry:
    """A documented member with its prose in parts."""

    module: str
    name: str
    kind: str
    arguments: tuple[str, ...]
    summary: str
    body: tuple[str, ...]
    parameters: dict[str, str]
    returns: str
    paragraphs: tuple[str, ...]

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def qualified(self) -> str:
        """The name to call it by: where a part of the path is private, the package's own name stands for the path."""
        path = _TWINS.get(self.package, self.package) if "._" in f".{self.module}" else self.module
        return f"{path}.{self.name}" if self.name else path

    @property
    def short(self) -> str:
        return (self.name or self.module).rpartition(".")[2]

    @property
    def signature(self) -> str:
        return f"{self.short}({', '.join(self.arguments)})"


def read_file(file: str, module: str) -> list[dict[str, Any]]:
    """The members of one file as plain values."""
    found = []
    for member in members(Path(file), module):
        doc = parse(member.doc)
        if doc.paragraphs:
            values = (doc.summary, doc.body, doc.parameters, doc.returns, doc.paragraphs)
            found.append(
                dict(
                    zip(
                        Entry.__slots__,
                        (member.module, member.name, member.kind, member.arguments, *values),
                        strict=True,
                    )
                )
            )
    return found


def extract(jobs: Sequence[Job], workers: int, step: Callable[[], Any]) -> list[Entry]:
    """All members of all files, in the order of the jobs. ``step`` is called after each file."""
    answers: dict[int, str] = {}
    shares = [list(enumerate(jobs))[n::workers] for n in range(workers)]
    failures: list[str] = []
    threads = [threading.Thread(target=_serve, args=(s, answers, failures, step)) for s in shares if s]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(answers) < len(jobs):
        raise RuntimeError(
            f"reading the installed documentation failed: {failures[0] if failures else 'a worker died'}"
        )
    rows = [row for n in range(len(jobs)) for row in json.loads(answers[n])]
    return [_entry(row) for row in rows]


def _entry(row: dict[str, Any]) -> Entry:
    """JSON knows lists alone."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Entry(**values)


def _serve(share: list[tuple[int, Job]], answers: dict[int, str], failures: list[str], step: Callable[[], Any]) -> None:
    """One worker process: all its jobs go in at once, answers come back line by line."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "lit_llm.data.installed_docs.extraction"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8"
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(json.dumps([job for _, job in share]) + "\n")
        worker.stdin.close()
        for (number, _), line in zip(share, worker.stdout, strict=False):
            answers[number] = line
            step()
    if worker.returncode:
        failures.append(f"a worker ended with status {worker.returncode}")


def main() -> None:
    """Answer the jobs on standard input."""
    end_with_named(by_thread=True)
    gc.disable()  # syntax trees have no cycles: looking for some takes a fifth of the time
    for file, module in json.loads(sys.stdin.readline()):
        sys.stdout.write(json.dumps(read_file(file, module)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
