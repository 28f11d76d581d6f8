"""Instruction tuning with LoRA and with QLoRA: what a few steps hold and how long one takes, each in a process of its
own; and what the whole training command holds at most, evaluation and merge included."""

from __future__ import annotations

import json as json_files
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.planned.work import last_line, taken
from benchmarks.startup.work import text_of
from lit_llm.backbone.huggingface import head_in
from lit_llm.errors import UserError
from lit_llm.model_sources.folders import folder_of
from lit_llm.runtime.model_folder import check_model_folder

CONTESTANTS = {"LoRA": None, "QLoRA": "nf4"}
ITEMS = 8  # of each held-out set, which the command ends with: answers take time, and more of them at once memory
SCRIPTS = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """LoRA beside QLoRA on one model: memory and time of the stage alone, memory of the whole training command."""

    model: Annotated[Path, "the model: a folder, FILE.gguf, installed/smollm2, hub:OWNER/NAME"]
    rank: Annotated[int, "of the adapters"] = 16
    rows: Annotated[int, "of a step"] = 1
    length: Annotated[int, "tokens of a row"] = 256
    steps: Annotated[int, "that are timed, after a first one"] = 3
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("rank", "rows", "length", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Held:
    """Bytes. ``bare`` to ``trained`` and ``seconds``, processor time of the median step, are the stage's alone.

    ``bare``: of the process with its libraries. ``made``: at most, until the stage stood. ``ready``: before the first
    step. ``trained``: at most, in the steps. ``weights``: of the network, adapters and scales included. ``command``: at
    most, in the whole training command's process.
    """

    bare: int
    made: int
    ready: int
    trained: int
    weights: int
    seconds: float
    command: int

    def line(self, name: str) -> str:
        sizes = {
            "process": self.bare, "made": self.made, "before the first step": self.ready, "trained": self.trained,
            "weights": self.weights, "whole command": self.command,
        }  # fmt: skip
        said = ", ".join(f"{what} {size / 2**20:,.0f} MiB" for what, size in sizes.items())
        return f"{name}: {said}; {self.seconds:.2f} s a step"


def run(settings: Settings) -> None:
    folder = folder_of(settings.model).expanduser().resolve()
    check_model_folder(folder, "model")
    if head_in(folder) != "language":
        raise UserError(f"model={settings.model}: gives scores; give a language model")
    described = conditions(None, "cpu")
    say("\n".join(described))
    found = {}
    for name, quantization in CONTESTANTS.items():
        found[name] = Held(**alone(settings, folder, quantization), command=command(settings, folder, quantization))
        print(found[name].line(name), flush=True)
    if settings.json is not None:
        told = {"conditions": described, "settings": asdict(settings) | {"model": folder.name, "json": None}}
        results = {name: asdict(one) for name, one in found.items()}
        settings.json.write_text(json_files.dumps({**told, "results": results}, indent=1) + "\n", encoding="utf-8")


def alone(settings: Settings, folder: Path, quantization: str | None) -> dict[str, Any]:
    """What ``alone.py`` measures of the stage, in a process of its own. Raises UserError where that fails."""
    words = [f"{name}={getattr(settings, name)}" for name in ("rank", "rows", "length", "steps")]
    words += [f"model={folder}", *([f"quantization={quantization}"] if quantization else [])]
    places = os.pathsep.join(filter(None, (str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.adapters.alone", *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"the stage alone failed: {last_line(done.stderr)}")
    found: dict[str, Any] = json_files.loads(done.stdout.splitlines()[-1])
    return found


def command(settings: Settings, folder: Path, quantization: str | None) -> int:
    """Bytes that the training command held at most. Raises UserError where it fails."""
    with tempfile.TemporaryDirectory() as place:
        write_conversations(settings, Path(place) / "conversations.jsonl")
        return int(taken(words_of(settings, folder, quantization, Path(place)))[1])


def write_conversations(settings: Settings, file: Path) -> None:
    """Short ones, packed into full rows whatever the tokenizer: enough for every step, and to hold some out."""
    tokens = (settings.steps + 1) * settings.rows * settings.length
    text = text_of(300_000)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(max(200, tokens // 8)):
            start = number * 24 % (len(text) - 24)
            told = {"user": f"Line {number}?", "assistant": f"{number} {text[start : start + 24].strip()}"}
            messages = [{"role": role, "content": content} for role, content in told.items()]
            lines.write(json_files.dumps({"messages": messages}) + "\n")


def words_of(settings: Settings, folder: Path, quantization: str | None, place: Path) -> list[str]:
    """The training command's, of a run that does what ``alone`` does, on the conversations in ``place``."""
    return [
        "stage=instruction_tuning", f"init_from={folder}", "pretrained_defaults=false",
        f"paths.outputs={place}", f"paths.cache={place}/cache", f"data.path={place}/conversations.jsonl",
        f"stage.lora_rank={settings.rank}", f"stage.lora_quantization={quantization or 'null'}",
        f"data.micro_batch_size={settings.rows}", f"data.max_length={settings.length}", "evaluation.before=false",
        f"evaluation.max_items={ITEMS}",
        f"trainer.max_steps={settings.steps + 1}", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "callbacks=none", "logger=none",
    ]  # fmt: skip
