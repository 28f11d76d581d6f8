"""``scripts/benchmark.py WORK key=value ...``: one work of this project beside its peers, ratios first."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_llm.config.entry_points import check_words
from lit_llm.errors import UserError
from lit_llm.runtime.arguments import parse
from lit_llm.runtime.out_of_resources import one_line
from lit_llm.runtime.terminal import started

if TYPE_CHECKING:  # what needs torch comes when the words are found good
    from benchmarks.record import Record

WORKS = {
    "training": "a training step's tokens a second and peak memory, here and in peers",
    "to_loss": "the time to the loss that nanoGPT ends with, told apart by what saves it",
    "generation": "new tokens a second of prompts and answers of unlike lengths, here and in peers",
    "preference": "a step of DPO, reward models, GRPO and PPO, here and in TRL",
    "instruction": "instruction tuning on conversations of unlike lengths, packed here, padded and packed in TRL",
    "preparation": "megabytes a second from text files to rows ready to train on, here and in peers",
    "corpus": "a generated corpus of any size into shards: speed, peak memory, killed and gone on with",
    "deduplication": "near duplicates of a generated set: recall, precision and speed, here and in datasketch",
    "scaling": "what a token costs in rows of 512 to 8,192, packed with short documents",
    "startup": "seconds from the training command to its first step",
    "planned": "time and memory that scripts/plan.py foresees, beside those of the run",
    "sharded": "memory a process and losses of a model spread over 2 and 4 processes, beside one and DDP",
    "adapters": "memory and time of instruction tuning with LoRA and with QLoRA",
    "gpu": "one GPU: whether it is right, then training, generation, DPO and GRPO on it",
    "report": "the README's table and plot, from the records that json= wrote",
}
"""Each is a folder with a ``work.py``: a dataclass ``Settings`` of its arguments and ``run(settings)``, which gives a
Record or None."""


def main() -> None:
    """The command line: ``scripts/benchmark.py``."""
    try:
        command(sys.argv[1:])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        told = one_line(error, "take a smaller shape, or fewer rows at once")
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(2) from None


def command(words: Sequence[str]) -> None:
    """Runs the named work, prints what it found and writes ``json=FILE`` where that is given."""
    if not words or words[0] in ("--help", "-h"):
        print("\n".join(["scripts/benchmark.py WORK key=value ... (WORK --help lists its keys)", "", *_described()]))
        return
    name, *rest = words
    if name not in WORKS:
        near = difflib.get_close_matches(name, WORKS, n=1)
        raise UserError(
            f"{name}: is no work; {f'did you mean {near[0]}? ' if near else ''}known are {', '.join(WORKS)}"
        )
    module = f"benchmarks.{name}.work"
    check_words(f"{module}.Settings", rest)
    if not {"--help", "-h"} & set(rest):
        started(f"{name}: loading torch ...")
    from benchmarks.conditions import device_of, kind_of, load
    from benchmarks.record import check_writable

    work: Any = import_module(module)
    settings = parse(work.Settings, rest)
    file: Path | None = getattr(settings, "json", None)
    if file is not None:
        check_writable(file)
    record: Record | None = work.run(settings)
    if record is None:
        return
    kind = kind_of(device_of(getattr(settings, "device", "cpu")))
    record = replace(record, conditions=[*record.conditions, f"load afterwards {load()}"], kind=kind)
    print("\n" + "\n".join(record.lines()), flush=True)
    if file is not None:
        record.save(file)


def say(text: str) -> None:
    """Progress: on stderr, so that what is found can be piped."""
    print(text, file=sys.stderr, flush=True)


def _described() -> list[str]:
    width = max(map(len, WORKS))
    return [f"  {name:<{width}}  {text}" for name, text in WORKS.items()]
