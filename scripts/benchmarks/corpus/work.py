"""Corpora larger than memory: megabytes a second and peak memory of all processes, for one size after another; and what
a run that was killed in the middle makes again.

``RawText`` prepares with all of its checks and an empty cache: shards, exact duplicates, held-out parts, the search for
held-out items. The smallest size is prepared in memory as well, as every corpus below ``data.stream_above`` is.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
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
from lit_llm.errors import UserError

LOOKS_EVERY = 0.25  # seconds between two looks at the memory
BOUND = 1.5  # GB that all processes may take, whatever the corpus


@dataclass(frozen=True)
class Settings:
    """Prepares generated corpora of some sizes in shards."""

    gigabytes: Annotated[str, "sizes, with commas between"] = "0.1,0.3,1"
    workers: Annotated[int, "as data.prepare_workers"] = 1
    in_memory: Annotated[bool, "the smallest size in memory too"] = True
    killed: Annotated[bool, "the largest size also killed in the middle and gone on with"] = True
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
        for streamed in (True, False) if size == smallest and settings.in_memory else (True,):
            name = f"{size:g} GB {'in shards' if streamed else 'in memory'}"
            results.append(_prepared(settings, name, file, streamed=streamed))
            numbers = results[-1].numbers
            say(f"{name}: {results[-1].median:.2f} MB/s, {numbers['MB/core_s']:.2f} a second of a core, "
                f"{results[-1].peak_gb:.2f} GB at most")  # fmt: skip
        if settings.killed and size == largest:
            whole = file.stat().st_size / 1e6 / results[-1 - (size == smallest and settings.in_memory)].median
            notes += list(_killed(settings, file, whole))
    streamed_ = [each for each in results if each.name.endswith("in shards")]
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
    size = file.stat().st_size / 1e6
    shards = len(list(cache.glob("tokens/shards/*/*/shard.json")))
    numbers = {"seconds": seconds, "shards": float(shards), "MB/core_s": size / worked}
    return Result(name, (size / seconds,), peak, numbers=numbers)


def _killed(settings: Settings, file: Path, whole: float) -> Iterator[str]:
    """Kills a run when about half of its time is over, and goes on with it."""
    cache = settings.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    _watched(settings, file, cache, streamed=True, kill_after=whole / 3)
    time.sleep(2)  # its processes see that it is gone, and end
    there = {one: one.stat().st_mtime_ns for one in cache.glob("tokens/shards/*/*/shard.json")}
    process, seconds, _, _ = _watched(settings, file, cache, streamed=True)
    if process.exitcode:
        raise UserError(f"the run that went on ended with code {process.exitcode}")
    after = {one: one.stat().st_mtime_ns for one in cache.glob("tokens/shards/*/*/shard.json")}
    again = sum(after.get(one) != made for one, made in there.items())
    yield (
        f"killed after {whole / 3:.0f} s with {len(there)} of {len(after)} shards done; going on took {seconds:.0f} s "
        f"(in one go {whole:.0f} s) and made {again} of them again"
    )


def _watched(
    settings: Settings, file: Path, cache: Path, *, streamed: bool, kill_after: float | None = None
) -> tuple[Any, float, float, float]:
    """A process that prepares, its seconds without its start, the peak memory of it and its own processes in GB, and
    the seconds that cores worked for them, which other work on the machine does not change much."""
    context = multiprocessing.get_context("spawn")
    started, worked = context.Event(), context.Value("d", 0.0)
    options = {
        "path": str(file), "cache_dir": str(cache), "max_length": settings.length,
        "prepare_workers": settings.workers, "stream_above": 0 if streamed else 10**6,
    }  # fmt: skip
    process = context.Process(target=_prepare, args=(options, settings.folder / "tokenizer", started, worked))
    process.start()
    while not started.wait(1) and process.is_alive():
        pass
    begun, peak = time.monotonic(), 0.0
    while process.is_alive():
        process.join(LOOKS_EVERY)
        peak = max(peak, memory(process.pid or 0))
        if kill_after is not None and time.monotonic() - begun >= kill_after:
            process.kill()
    return process, time.monotonic() - begun, peak, worked.value


def _prepare(options: dict[str, Any], tokenizer: Path, started: Any, worked: Any) -> None:
    from lit_llm.data.options import TextOptions
    from lit_llm.data.raw_text import RawText
    from lit_llm.text.tokenizer import load_tokenizer

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


def _children(process: int) -> Iterator[int]:
    for place in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in place.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _children(child)
