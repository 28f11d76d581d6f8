"""Corpora larger than memory: megabytes a second and peak memory of all processes, for one size after another; and what
a run that was killed in the middle makes again.

``RawText`` prepares with all of its checks and an empty cache: shards, exact duplicates, held-out parts, the search for
held-out items. The smallest size is prepared in memory as well, as every corpus below ``data.stream_above`` is.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.corpus.texts import write
from benchmarks.race import Result
from benchmarks.record import Record
from lit_llm.data.shards.portions import PORTION
from lit_llm.errors import UserError
from lit_llm.runtime.parent import end_with

LOOKS_EVERY = 0.25  # seconds between two looks at the memory
BOUND = 1.5  # GB that all processes may take, whatever the corpus


@dataclass(frozen=True)
class Settings:
    """Prepares generated corpora of some sizes in shards."""

    gigabytes: Annotated[str, "sizes, with commas between"] = "0.1,0.3,1"
    workers: Annotated[int, "as data.prepare_workers"] = 1
    in_memory: Annotated[bool, "the smallest size in memory too"] = True
    killed: Annotated[bool, "the largest size also killed when a third is done, and gone on with"] = True
    in_one_go: Annotated[bool, "the largest size in one go too; without it, it is only killed and gone on with"] = True
    vocab_size: Annotated[int, "of the tokenizer, which is trained on 20 MB of the corpus"] = 16_384
    length: Annotated[int, "tokens a row"] = 1024
    seed: Annotated[int, "of the corpus"] = 0
    folder: Annotated[Path, "for corpora and their shards, three times the largest size"] = Path("outputs/corpus")
    cache_dir: Annotated[Path, "where the installed documentation is kept"] = Path("outputs/cache")
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        try:
            if not self.sizes or min(self.sizes) <= 0:
                raise ValueError
        except ValueError:
            raise UserError(f"gigabytes={self.gigabytes}: numbers above 0 are needed, such as 0.1,1") from None
        if self.workers < 1:
            raise UserError(f"workers={self.workers}: must be at least 1")

    @property
    def sizes(self) -> list[float]:
        return sorted(float(size) for size in self.gigabytes.split(","))


def run(settings: Settings) -> Record:
    described = [
        f"generated JSONL of {settings.gigabytes} GB, rows of {settings.length} tokens, {settings.workers} "
        f"process{'es' if settings.workers > 1 else ''}, empty cache",
        *conditions(settings.workers, "cpu", ("tokenizers", "numpy")),
    ]
    say("\n".join(described))
    results, notes = [], []
    smallest, largest = settings.sizes[0], settings.sizes[-1]
    for size in settings.sizes:
        file = write(settings.folder, int(size * 1e9), settings.seed, settings.cache_dir)
        _tokenizer(settings, file)
        ways = [True] if settings.in_one_go or size < largest else []
        for streamed in [*ways, False] if size == smallest and settings.in_memory else ways:
            name = f"{size:g} GB {'in shards' if streamed else 'in memory'}"
            results.append(_prepared(settings, name, file, streamed=streamed))
            _tell(results[-1])
        if settings.killed and size == largest:
            result, note = _killed(settings, f"{size:g} GB in shards, killed and gone on with", file)
            results.append(result)
            notes.append(note)
            _tell(result)
    streamed_ = [each for each in results if "in shards" in each.name]
    most = max(each.peak_gb for each in streamed_)
    notes.append(f"peak memory in shards {most:.2f} GB, wanted {BOUND} at most: {'met' if most <= BOUND else 'missed'}")
    title = f"corpora in shards, {settings.workers} process{'es' if settings.workers > 1 else ''}"
    return Record("corpus", "MB", described, results, (), notes, asdict(settings), title=title)


def _tokenizer(settings: Settings, file: Path) -> None:
    place = settings.folder / "tokenizer"
    if (place / "tokenizer.json").is_file():
        return
    from itertools import islice
    from json import loads

    from lit_llm.text.bpe import train_bpe

    with file.open("rb") as lines:
        texts = [loads(line)["text"] for line in islice(lines, 10_000)]
    train_bpe(texts, settings.vocab_size, show_progress=False).save(place)


def _prepared(settings: Settings, name: str, file: Path, *, streamed: bool) -> Result:
    cache = settings.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    process, seconds, peak, worked = _watched(settings, file, cache, streamed=streamed)
    if process.exitcode:
        raise UserError(f"{name}: ended with code {process.exitcode}")
    return _result(name, file, cache, seconds, peak, worked)


def _result(name: str, file: Path, cache: Path, seconds: float, peak: float, worked: float) -> Result:
    size = file.stat().st_size / 1e6
    numbers = {"seconds": seconds, "shards": float(len(_shards(cache))), "MB/core_s": size / worked,
               "core_s/MB": worked / size}  # fmt: skip
    return Result(name, (size / seconds,), peak, numbers=numbers)


def _tell(result: Result) -> None:
    numbers = result.numbers
    say(
        f"{result.name}: {numbers['seconds']:.0f} s, {result.median:.2f} MB/s, {numbers['MB/core_s']:.2f} a second of "
        f"a core, {result.peak_gb:.2f} GB at most"
    )


def _shards(cache: Path) -> dict[Path, int]:
    """When each shard was done."""
    found = {}
    for one in cache.glob("tokens/shards/*/*/shard.json"):
        if not one.parent.name.startswith("."):
            found[one] = one.stat().st_mtime_ns
    return found


def _killed(settings: Settings, name: str, file: Path) -> tuple[Result, str]:
    """Kills a run with all of its processes at once when about a third of its shards are done, and goes on with it."""
    cache = settings.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    third = max(1, file.stat().st_size // PORTION // 3)
    _, before, first, worked = _watched(settings, file, cache, streamed=True, kill_at=third)
    there = _shards(cache)
    process, seconds, peak, more = _watched(settings, file, cache, streamed=True)
    if process.exitcode:
        raise UserError(f"the run that went on ended with code {process.exitcode}")
    after = _shards(cache)
    again = sum(after.get(one) != made for one, made in there.items())
    note = (
        f"killed (SIGKILL, all processes at once) after {before:.0f} s with {len(there)} of {len(after)} shards done; "
        f"going on took {seconds:.0f} s and made {again} of them again"
    )
    say(note)
    return _result(name, file, cache, before + seconds, max(first, peak), worked + more), note


def _watched(
    settings: Settings, file: Path, cache: Path, *, streamed: bool, kill_at: int | None = None
) -> tuple[Any, float, float, float]:
    """A process that prepares, its seconds without its start, the peak memory of it and its own processes in GB, and
    the seconds that cores worked for them, which other work on the machine does not change much.

    ``kill_at``: so many shards.
    """
    context = multiprocessing.get_context("spawn")
    started, worked = context.Event(), context.Value("d", 0.0)
    options = {
        "path": str(file), "cache_dir": str(cache), "max_length": settings.length,
        "prepare_workers": settings.workers, "stream_above": 0 if streamed else 10**6,
    }  # fmt: skip
    process = context.Process(target=_prepare, args=(options, settings.folder / "tokenizer", started, worked))
    process.start()
    begun, peak, busy = time.monotonic(), 0.0, 0.0
    try:
        while not started.wait(1) and process.is_alive():
            pass
        begun, least = time.monotonic(), seconds_of(process.pid or 0)
        while process.is_alive():
            process.join(LOOKS_EVERY)
            peak = max(peak, memory(process.pid or 0))
            busy = max(busy, seconds_of(process.pid or 0) - least)
            if kill_at is not None and len(_shards(cache)) >= kill_at:
                os.killpg(process.pid or 0, signal.SIGKILL)
                process.join()
    finally:
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
    return process, time.monotonic() - begun, peak, worked.value or busy


def _prepare(options: dict[str, Any], tokenizer: Path, started: Any, worked: Any) -> None:
    from lit_llm.data.options import TextOptions
    from lit_llm.data.raw_text import RawText
    from lit_llm.text.tokenizer import load_tokenizer

    end_with(os.getppid())
    os.setpgrp()  # its processes are of its group, and end with it
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: options["prepare_workers"]]
        os.sched_setaffinity(0, cores)
    data = RawText(TextOptions(**options), tokenizer=load_tokenizer(tokenizer))
    begun = sum(os.times()[:4])
    started.set()
    data.setup()
    worked.value = sum(os.times()[:4]) - begun  # of its processes too


def memory(process: int) -> float:
    """GB of a process and of all that it started: what several share is counted once."""
    total = 0
    for one in [process, *_children(process)]:
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e9


def seconds_of(process: int) -> float:
    """Seconds that cores have worked for a process and all that it started, those that have ended too."""
    ticks = 0
    for one in [process, *_children(process)]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> Iterator[int]:
    for place in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in place.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _children(child)
