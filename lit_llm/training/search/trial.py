"""The trial that a run belongs to: told by the sweep to the job, and from there to the processes of the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_llm.runtime.atomic_files import write_json

VARIABLE = "LIT_LLM_TRIAL"
FOLDER = ".trials"  # in a sweep's, a file for each job


class Pruned(Exception):  # noqa: N818 (it is what happened)
    """The pruner ended a trial. The text says after which step, by which value."""


@dataclass(frozen=True)
class Trial:
    """What a run needs to report to its study."""

    storage: str
    study: str
    number: int
    monitor: str
    pruner: Mapping[str, Any]

    def write(self, sweep: Path) -> None:
        path = sweep / FOLDER / f"{self.number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # a database's URL may have a password in it: nobody else reads it, at no moment
        write_json(path, asdict(self))
        path.chmod(0o600)


@contextmanager
def told(sweep: Path, job: int | str) -> Iterator[None]:
    """Within, this process and those that it starts report to the trial that the sweep wrote down for the job."""
    try:
        text = (sweep / FOLDER / f"{job}.json").read_text(encoding="utf-8")
    except OSError:  # no search, or one without pruning
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = text
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def untold(unless: bool) -> Iterator[None]:
    """Within, nothing is reported: of a pipeline's steps only the one that is compared does."""
    before = os.environ.get(VARIABLE)
    if not unless:
        os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        _put_back(before)


def _put_back(before: str | None) -> None:
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before


def current() -> Trial | None:
    """The trial that this process reports to."""
    text = os.environ.get(VARIABLE)
    return None if text is None else Trial(**json.loads(text))
