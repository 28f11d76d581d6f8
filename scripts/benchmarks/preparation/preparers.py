"""Who prepares text: each call goes from the files to rows on the disk, in folders of its own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.text import pretokenization
from lit_llm.text.tokenizer import load_tokenizer


class Preparer:
    """Text files (MB of them are ``units``) to rows of ``length`` tokens, on so many cores."""

    def __init__(self, text: Path, tokenizer: Path, length: int, cores: int) -> None:
        self.files = sorted(text.glob("*.txt"))
        self.text, self.tokenizer, self.length = text, tokenizer, length
        self.units = sum(file.stat().st_size for file in self.files) / 1e6
        self.tokens = 0
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    def __call__(self) -> None:
        place = Path(tempfile.mkdtemp())
        try:
            self.tokens = self.prepare(self.files, place)
        finally:
            shutil.rmtree(place)

    def prepare(self, files: list[Path], place: Path) -> int:
        """Returns the tokens that the rows hold."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        return {"MB": self.units, "tokens": self.tokens}


class Here(Preparer):
    """``RawText``, checks and deduplication included."""

    def prepare(self, files: list[Path], place: Path) -> int:
        _forget()
        data = RawText(
            TextOptions(
                path=[str(file) for file in files],
                max_length=self.length,
                validation_fraction=0.05,
                test_fraction=0.0,  # whose texts are not made into rows
                cache_dir=str(place),
            ),
            tokenizer=load_tokenizer(self.tokenizer),
        )
        data.setup()
        heldout: list[Any] = list(data.prepared.validation.values())
        return data.prepared.train_tokens + sum(int(rows.plan.length.sum()) for rows in heldout)


def _forget() -> None:
    """What a process keeps for its next tokenizer: a run has one, and pays for these tables itself."""
    for table in (pretokenization._compiled, pretokenization._ranges, pretokenization._everything):
        table.cache_clear()
    re.purge()


class HereAgain(Here):
    """The same run started again: its tokens are found in the cache, after the files were read and checked."""

    def __init__(self, text: Path, tokenizer: Path, length: int, cores: int) -> None:
        super().__init__(text, tokenizer, length, cores)
        self._kept = tempfile.TemporaryDirectory()

    def __call__(self) -> None:
        self.tokens = self.prepare(self.files, Path(self._kept.name))


class LitGPT(Preparer):
    """``litgpt.data.TextFiles``: litdata's ``optimize`` in processes of its own, the first file for validation."""

    def __init__(self, text: Path, tokenizer: Path, length: int, cores: int) -> None:
        super().__init__(text, tokenizer, length, cores)
        self._start_seconds, self.cores = 0.0, cores

    def prepare(self, files: list[Path], place: Path) -> int:
        from litgpt.data import TextFiles
        from litgpt.tokenizer import Tokenizer

        for file in files:
            (place / file.name).symlink_to(file.resolve())
        data = TextFiles(train_data_path=place, num_workers=0)
        data.connect(Tokenizer(self.tokenizer), 1, self.length)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            # It takes one process less than the machine has cores, whatever it was given: here as many as it was given.
            patch.object(os, "cpu_count", return_value=self.cores + 1),
        ):
            data.prepare_data()
        return sum(file.stat().st_size for file in place.rglob("*.bin")) // 4

    def numbers(self) -> dict[str, float]:
        return super().numbers() | {"start_seconds": self._start()}

    def _start(self) -> float:
        """Seconds that hardly any text takes; measured once."""
        if not self._start_seconds:
            with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as place:
                files = [Path(few) / name for name in ("a.txt", "b.txt")]
                for file in files:
                    file.write_text("text " * self.length)
                started = time.perf_counter()
                self.prepare(files, Path(place))
                self._start_seconds = time.perf_counter() - started
        return self._start_seconds


class Datasets(Preparer):
    """``datasets`` as transformers' run_clm example uses it: ``map`` to tokens, ``map`` to blocks, both cached."""

    def __init__(self, text: Path, tokenizer: Path, length: int, cores: int, by: str) -> None:
        super().__init__(text, tokenizer, length, cores)
        self.by, self.processes = by, cores if cores > 1 else None

    def prepare(self, files: list[Path], place: Path) -> int:
        import datasets
        from transformers import PreTrainedTokenizerFast

        datasets.disable_progress_bars()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self.tokenizer))
        tokenizer.model_max_length = int(1e30)  # no warning about long texts: they are cut into blocks below
        names = [str(file) for file in files]
        raw: Any = datasets.load_dataset(
            "text", data_files=names, split="train", cache_dir=str(place), sample_by=self.by, keep_linebreaks=True
        )
        tokenized = raw.map(
            lambda rows: tokenizer(rows["text"]), batched=True, remove_columns=["text"], num_proc=self.processes
        )
        rows = tokenized.map(lambda columns: _blocks(columns, self.length), batched=True, num_proc=self.processes)
        return len(rows) * self.length


def _blocks(columns: dict[str, list[list[int]]], length: int) -> dict[str, list[list[int]]]:
    """Texts end to end, cut into blocks; what is left of a batch is dropped, and labels are a copy."""
    joined = {name: list(chain.from_iterable(values)) for name, values in columns.items()}
    whole = len(joined["input_ids"]) // length * length
    blocks = {name: [ids[at : at + length] for at in range(0, whole, length)] for name, ids in joined.items()}
    return blocks | {"labels": [list(block) for block in blocks["input_ids"]]}
