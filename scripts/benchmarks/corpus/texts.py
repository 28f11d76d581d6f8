"""A corpus of any size, made of words as often as the installed documentation has them; the same for the same seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lit_llm.data.installed_docs.corpus import part_files
from lit_llm.runtime.atomic_files import beside
from lit_llm.runtime.progress_bars import Bar

WORDS = 50_000  # different ones
MEAN, SPREAD = 5.4, 0.9  # of the logarithm of a text's words: 330 on average, as pages of the web have
LINE = 12  # words
COPIES = 0.03  # of the texts, those that are an earlier one again
AT_ONCE = 4000  # texts


def write(folder: Path, size: int, seed: int, cache_dir: Path) -> Path:
    """A JSONL of at least ``size`` bytes in a folder; one that is there is kept."""
    file = folder / f"corpus-{size}-{seed}.jsonl"
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    bar = Bar(total=size, desc="write the corpus", unit="B", unit_scale=True, leave=False)
    with beside(file) as temporary, temporary.open("wb") as out, bar:
        for lines in _lines(seed, cache_dir):
            out.write(lines)
            bar.update(len(lines))
            if out.tell() >= size:
                break
    return file


def _lines(seed: int, cache_dir: Path) -> Iterator[bytes]:
    counts: Counter[str] = Counter()
    for file in part_files("raw_text", cache_dir):
        for line in filter(None, Path(file).read_text(encoding="utf-8").split("\n")):
            counts.update(re.findall(r"\S+", json.loads(line)["text"]))
    words, numbers = zip(*counts.most_common(WORDS), strict=True)
    ends = np.cumsum(np.array(numbers, np.float64))
    random = np.random.default_rng(seed)
    earlier: list[bytes] = []
    while True:
        lengths = random.lognormal(MEAN, SPREAD, AT_ONCE).astype(np.int64) + 1
        drawn = np.searchsorted(ends, random.random(int(lengths.sum())) * ends[-1], side="right")
        said = [words[number] for number in drawn.tolist()]
        begin, rows = 0, []
        for length in lengths.tolist():
            part = said[begin : begin + length]
            begin += length
            text = "\n".join(" ".join(part[at : at + LINE]) for at in range(0, length, LINE))
            rows.append(json.dumps({"text": text}).encode() + b"\n")
        copies = int(COPIES * AT_ONCE)
        rows += earlier[:copies]
        earlier = rows[:AT_ONCE]
        yield b"".join(rows)
