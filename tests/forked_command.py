"""A script of the project with its words in a forked process: its files, its output and its status are those that its
user has, and torch is not imported again."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
SCRIPTS = Path(__file__).parents[1] / "scripts"


def forked(
    script: str, *words: object, cwd: Path | None = None, typed: str = "", encoding: str = "utf-8", seconds: float = 400
) -> subprocess.CompletedProcess[str]:
    """What ``python scripts/SCRIPT.py WORDS`` says, and the status that it ends with.

    It is begun in the folder ``cwd``, by a terminal of this encoding; ``typed`` is its input.
    """
    given = [str(word) for word in words]
    with tempfile.TemporaryFile() as into, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        into.write(typed.encode())
        into.seek(0)
        process = FORK.Process(target=_run, args=(script, given, cwd, encoding, (into, out, err)))
        process.start()
        process.join(seconds)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
        said = [_text(file) for file in (out, err)]
    assert status is not None, f"{script} did not end in {seconds} seconds: {said}"
    return subprocess.CompletedProcess([script, *given], status, *said)


def _run(script: str, words: list[str], cwd: Path | None, encoding: str, files: tuple[Any, ...]) -> None:
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", encoding=encoding, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = [str(SCRIPTS / f"{script}.py"), *words]
    sys.path.insert(0, str(SCRIPTS))
    os.chdir(cwd or Path.cwd())
    runpy.run_path(sys.argv[0], run_name="__main__")


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode()
    return text
