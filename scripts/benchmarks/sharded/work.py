"""A model spread over processes: what each of them holds at its peak, how long a step takes, and how far its losses are
from those of one process. Each run starts from one model folder, in processes that torchrun starts."""

from __future__ import annotations

import json as json_files
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.planned.work import last_line
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError

STAGES = ("pretraining", "lora", "dpo", "reward_model", "ppo", "grpo")
OPTIMIZERS = ("adamw", "muon")
WAYS = {"one": "one process", "ddp": "ddp", "full": "fsdp", "grad": "fsdp, shard=grad", "tp": "tp"}
SCRIPTS = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """Measures runs of one process and of several, on the processor."""

    hidden_size: Annotated[int, "width"] = 512
    layers: Annotated[int, "layers"] = 8
    heads: Annotated[int, "attention heads, of 64"] = 8
    vocab_size: Annotated[int, "rows of the embedding"] = 8192
    rows: Annotated[int, "of a step, over all processes"] = 4
    length: Annotated[int, "tokens of a row"] = 256
    steps: Annotated[int, "of each run"] = 5
    processes: Annotated[tuple[int, ...], "each divides rows="] = (2, 4)
    stages: Annotated[tuple[str, ...], f"of {', '.join(STAGES)}"] = ("pretraining", "dpo")
    optimizer: Annotated[str, f"of {', '.join(OPTIMIZERS)}"] = "adamw"
    ways: Annotated[tuple[str, ...], f"of {', '.join(list(WAYS)[1:])}"] = tuple(WAYS)[1:]
    keep: Annotated[bool, "large freed memory is kept with fsdp and tp too, as in one process"] = False
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "heads", "vocab_size", "rows", "length", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.steps < 2:
            raise UserError(f"steps={self.steps}: must be at least 2; the first one is not timed")
        if any(count < 2 or self.rows % count for count in self.processes):
            raise UserError(f"processes={self.processes}: each must be 2 or more and divide rows={self.rows}")
        for name, known in (("stages", STAGES), ("ways", tuple(WAYS)[1:])):
            unknown = [each for each in getattr(self, name) if each not in known]
            if unknown:
                raise UserError(f"{name}={unknown[0]}: must be of {', '.join(known)}")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer={self.optimizer}: must be of {', '.join(OPTIMIZERS)}")


@dataclass(frozen=True)
class Found:
    """A run, by the process that held most."""

    stage: str
    processes: int
    way: str
    bare: float  # bytes of libraries, before there is a model
    state: float  # bytes of its part of weights, gradients and the optimizer's state, frozen networks among them
    held: float  # bytes at the peak, above ``bare``
    seconds: float  # of a step, by the clock
    processor: float  # seconds of a step, of each process's processor, their mean
    gap: float  # the largest difference between a step's loss and one process's; nan: each samples its own answers

    def line(self) -> str:
        told = f"{self.gap:.1e}" if self.processes > 1 and not math.isnan(self.gap) else "-"
        sizes = " | ".join(f"{size / 2**20:,.0f} MiB" for size in (self.bare, self.state, self.held))
        times = f"{self.seconds:.2f} s | {self.processor:.2f} s"
        return f"| {self.stage} | {self.processes} | {WAYS[self.way]} | {sizes} | {times} | {told} |"


def run(settings: Settings) -> None:
    described = conditions(1, "cpu")
    say("\n".join(described))
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as place:
        shape = from_depth(
            settings.vocab_size, settings.layers, hidden_size=settings.hidden_size, num_heads=settings.heads,
            num_kv_heads=settings.heads, head_dim=64, max_positions=settings.length,
        )  # fmt: skip
        model = LanguageModel(shape)
        save_model(place, model)
        say(f"{model.num_parameters():,} parameters, {settings.rows} rows of {settings.length} a step, float32, "
            f"{settings.optimizer}, one thread a process")  # fmt: skip
        print("| stage | processes | strategy | libraries | weights, gradients, moments | at the peak, above libraries "
              "| a step | of each processor | from one process's losses |", flush=True)  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for one in measured(settings, Path(place)):
            found.append(one)
            print(one.line(), flush=True)
    if settings.json is not None:
        record = {
            "conditions": described,
            "settings": asdict(settings) | {"json": None},
            "runs": [asdict(one) for one in found],
        }
        settings.json.write_text(json_files.dumps(record, indent=1) + "\n", encoding="utf-8")


def measured(settings: Settings, folder: Path) -> Iterator[Found]:
    for stage in settings.stages:
        alone = member(settings, folder, stage, 1, "one")
        yield _found(stage, 1, "one", alone, alone)
        for count in settings.processes:
            for way in settings.ways:
                yield _found(stage, count, way, member(settings, folder, stage, count, way), alone)


def _found(stage: str, processes: int, way: str, told: dict[str, Any], alone: dict[str, Any]) -> Found:
    gap = max(abs(a - b) for a, b in zip(told["losses"], alone["losses"], strict=True))
    sizes = told["bare"], max(told["state"]), max(told["held"])
    processor = statistics.fmean(map(statistics.median, told["processor"]))
    return Found(stage, processes, way, *sizes, statistics.median(told["seconds"]), processor, gap)


def member(settings: Settings, folder: Path, stage: str, processes: int, way: str) -> dict[str, Any]:
    """What the first process of a run prints. Raises UserError where it fails."""
    told = {
        "folder": str(folder), "stage": stage, "way": "full" if way == "tp" else way, "rows": settings.rows,
        "length": settings.length, "steps": settings.steps, "optimizer": settings.optimizer,
        "tensor_parallel": 2 if way == "tp" else 1, "keep": settings.keep,
    }  # fmt: skip
    places = os.pathsep.join(filter(None, (str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone",
         "--local-addr=127.0.0.1", "-m", "benchmarks.sharded.member", json_files.dumps(told)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{stage}, {processes} processes, {way}: failed: {last_line(done.stderr)}")
    found: dict[str, Any] = json_files.loads(done.stdout.splitlines()[-1])
    return found
