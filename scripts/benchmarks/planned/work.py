"""Planned and taken: the time and memory that ``scripts/plan.py`` foresees, and those of the run itself.

Each run is planned first, so that both read data that is in the cache. What is taken is the whole command's time, from
its start to its end with the import of torch, and the largest resident size of its process.
"""

from __future__ import annotations

import json as json_files
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from benchmarks.command import say
from benchmarks.conditions import conditions
from lit_llm.errors import UserError

_TUNING = (
    "stage=instruction_tuning init_from=installed/smollm2 trainer.max_steps=4 trainer.global_batch_size=8 "
    "data.max_length=256 data.micro_batch_size=4 evaluation.max_items=8 evaluation.max_new_tokens=32"
)
RUNS = (
    "stage=pretraining backbone=3m trainer.max_steps=20",
    _TUNING,
    f"{_TUNING} stage.lora_rank=16",
)
TIME, MEMORY = 0.25, 0.15  # by which a plan may be off
_PLAN = """
import json, sys, tempfile
from pathlib import Path
from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.training.plan.run_plan import plan_run
schema.register()
words = sys.argv[1:]
check("train", hydra_words("train", words))
with tempfile.TemporaryDirectory() as folder:
    plan = plan_run(compose("train", words), True, Path(folder))
print(json.dumps({"bytes": plan.memory, "seconds": plan.time and plan.time.total}))
"""


@dataclass(frozen=True)
class Settings:
    """Plans runs, makes them, and compares."""

    runs: Annotated[tuple[str, ...], "words of scripts/train.py, a text each"] = RUNS
    rounds: Annotated[int, "plans and runs of each"] = 3
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"rounds={self.rounds}: must be at least 1")


@dataclass(frozen=True)
class Compared:
    """One run: seconds and bytes, foreseen and taken, of every round."""

    words: str
    planned_seconds: list[float]
    taken_seconds: list[float]
    planned_bytes: list[float]
    taken_bytes: list[float]

    def off(self) -> tuple[float, float]:
        """Medians: what was foreseen over what was taken, of the time and of the memory."""
        return (
            statistics.median(a / b for a, b in zip(self.planned_seconds, self.taken_seconds, strict=True)),
            statistics.median(a / b for a, b in zip(self.planned_bytes, self.taken_bytes, strict=True)),
        )

    def line(self) -> str:
        """For the table in scripts/README.md."""
        time_off, memory_off = self.off()
        met = abs(time_off - 1) <= TIME and abs(memory_off - 1) <= MEMORY
        cells = [f"`{self.words}`", _both(self.planned_seconds, self.taken_seconds, 1, "s"), f"{time_off:.2f}"]
        cells += [_both(self.planned_bytes, self.taken_bytes, 2**20, "MiB"), f"{memory_off:.2f}"]
        return f"| {' | '.join(cells)} | {'met' if met else '**missed**'} |"


def run(settings: Settings) -> None:
    described = conditions(None, "cpu")
    say("\n".join(described))
    found = [compared(words, settings.rounds) for words in settings.runs]
    say("| run | time foreseen, taken | ratio | memory foreseen, taken | ratio | within 25% and 15% |")
    say("|---|---|---|---|---|---|")
    for one in found:
        say(one.line())
    if settings.json is not None:
        record = {"conditions": described, "runs": [asdict(one) for one in found]}
        settings.json.write_text(json_files.dumps(record, indent=1) + "\n", encoding="utf-8")


def compared(words: str, rounds: int) -> Compared:
    """Plans and makes a run so many times, one after the other."""
    one = Compared(words, [], [], [], [])
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            given = [*words.split(), f"paths.outputs={folder}"]
            plan = json_files.loads(_output([sys.executable, "-c", _PLAN, *given]).splitlines()[-1])
            if plan["seconds"] is None:
                raise UserError(f"{words}: the plan measured no time; does it fit into memory?")
            seconds, size = taken(given)
        one.planned_seconds.append(plan["seconds"])
        one.planned_bytes.append(plan["bytes"])
        one.taken_seconds.append(seconds)
        one.taken_bytes.append(size)
        say(f"{words}, {number + 1} of {rounds}: {plan['seconds']:.0f} s foreseen, {seconds:.0f} s taken; "
            f"{plan['bytes'] / 2**20:,.0f} MiB foreseen, {size / 2**20:,.0f} MiB taken")  # fmt: skip
    return one


def taken(words: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak bytes of the training command."""
    began = time.perf_counter()
    code = "from lit_llm.training.command import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read() if process.stderr else b""  # to its end, so that it never waits for a reader
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"train.py {' '.join(words)}: failed: {last_line(said.decode(errors='replace'))}")
    return time.perf_counter() - began, float(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _output(command: Sequence[str]) -> str:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise UserError(f"the plan failed: {last_line(found.stderr)}")
    return found.stdout


def last_line(text: str) -> str:
    """Of what a process said: where it failed, that is the error."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _both(foreseen: Sequence[float], taken: Sequence[float], unit: float, word: str) -> str:
    return f"{statistics.median(foreseen) / unit:,.0f} {word}, {statistics.median(taken) / unit:,.0f} {word}"
