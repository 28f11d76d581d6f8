"""Start-up: seconds from the command to its first optimizer step, on the default model without compile.

The command is the one a user gives, in an empty folder: a tokenizer is trained, tokens are made, nothing is cached but
what the system keeps of files. Measured twice: as this Python is, and without two packages that are none of this
project's requirements, but which torchmetrics, a requirement of Lightning, imports where it finds them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.race import Contestant, Result, race
from benchmarks.record import Goal, Record
from lit_llm.errors import UserError
from lit_llm.runtime.parent import end_with_the_thread

WANTED = 6.0  # seconds
HIDDEN = ("transformers", "scipy")
_COMMAND = "from lit_llm.training.command import main; main()"
_WITHOUT = """
import importlib.metadata, importlib.util
hidden = {hidden!r}
def without(find, error):
    def found(name, *rest):
        if name.partition(".")[0] in hidden:
            return error(name)
        return find(name, *rest)
    return found
def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = without(importlib.metadata.version, missing)
importlib.util.find_spec = without(importlib.util.find_spec, lambda name: None)
"""


@dataclass(frozen=True)
class Settings:
    """Times the training command from its start to its first step."""

    words: Annotated[str, "of the command, with blanks"] = "stage=pretraining"
    characters: Annotated[int, "of the text that is trained on"] = 300_000
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    limit: Annotated[float, "seconds after which a start has failed"] = 120.0
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("characters", "rounds", "limit"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")


def run(settings: Settings) -> Record:
    described = [
        f"train.py {settings.words} on {settings.characters:,} characters in an empty folder, without compile",
        *conditions(settings.threads, "cpu", ("lightning", "hydra-core", *HIDDEN)),
    ]
    say("\n".join(described))
    contestants = [
        Contestant("here", partial(Start, settings, hidden=False)),
        Contestant(f"here without {' and '.join(HIDDEN)}", partial(Start, settings, hidden=True)),
    ]
    results = race(contestants, settings.rounds, seconds=0.0, threads=1, say=say)
    wanted = Result(f"{WANTED:g} seconds", (1 / WANTED,) * settings.rounds)
    goals = [Goal(each.name, each.name, [wanted.name], 1.0) for each in contestants]
    notes = [f"{each.name}: {1 / each.median:.2f} seconds" for each in results]
    title = "start-up, command to first step"
    return Record("startup", "starts", described, [*results, wanted], goals, notes, asdict(settings), title=title)


class Start:
    """One start of the command, ended at its first step."""

    units = 1.0

    def __init__(self, settings: Settings, hidden: bool) -> None:
        self.settings = settings
        self.code = (_WITHOUT.format(hidden=HIDDEN) if hidden else "") + _COMMAND
        self.seconds, self.cpu = 0.0, 0.0

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "text.txt").write_text(text_of(self.settings.characters), encoding="utf-8")
            self._start(folder)

    def _start(self, folder: Path) -> None:
        words = [*self.settings.words.split(), f"data.path={folder}/text.txt", f"hydra.run.dir={folder}/run"]
        words += [f"data.cache_dir={folder}/cache", "+callbacks.first_step._target_=" + FIRST_STEP]
        words += [f"+callbacks.first_step.file={folder}/first.json"]
        words += ["allowed_targets=[benchmarks.]"]
        words += [] if self.settings.threads is None else [f"trainer.num_threads={self.settings.threads}"]
        began = time.time()
        with (folder / "log").open("wb") as log:
            started = subprocess.Popen(
                [sys.executable, "-c", self.code, *words],
                cwd=folder, stdout=log, stderr=log, start_new_session=True, env=_with_races(),
                preexec_fn=end_with_the_thread,
            )  # fmt: skip
            found = self._wait(started, folder / "first.json", began)
        if found is None:
            lines = (folder / "log").read_text(errors="replace").strip().splitlines()
            raise UserError(f"{' '.join(words)}: no step; {lines[-1] if lines else 'it said nothing'}")
        self.seconds, self.cpu = found["at"] - began, found["cpu"]

    def _wait(self, started: subprocess.Popen[bytes], file: Path, began: float) -> dict[str, float] | None:
        try:
            while started.poll() is None and not file.exists() and time.time() - began < self.settings.limit:
                time.sleep(0.005)
            found: dict[str, float] | None = json.loads(file.read_text()) if file.exists() else None
            return found
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()

    def numbers(self) -> dict[str, float]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu}


def _with_races() -> dict[str, str]:
    """The environment, in which the command finds the callback that ends it."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


FIRST_STEP = "benchmarks.startup.first_step.FirstStep"


def text_of(characters: int) -> str:
    """The beginning of Python's own language reference, which comes with it."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())[:characters]
