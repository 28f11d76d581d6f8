"""Held-out items among the training texts of a corpus in shards (``quality/decontamination.py``).

The corpus is read once more, a portion at a time, since its shards hold tokens and no texts. What is found of the
items' n-grams is kept for each portion in ``found-KEY/`` until all are searched: a search that was killed goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_llm.data import stores
from lit_llm.data.file_rows import place
from lit_llm.data.filters import content_key
from lit_llm.data.options import TextOptions
from lit_llm.data.quality.decontamination import Found, HeldoutItems
from lit_llm.data.quality.screening import screening_of
from lit_llm.data.shards.corpus import Corpus, waiting
from lit_llm.data.shards.fates import REASONS, TRAIN, Fates, bounds_of, leave_out
from lit_llm.data.shards.making import CODE, reading_of, rows_of
from lit_llm.data.shards.portions import Portion, fetched_ahead
from lit_llm.data.shards.processes import in_processes, nothing_unfinished, processors
from lit_llm.data.shards.shard import Shard
from lit_llm.data.token_cache import content_hash
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.atomic_files import NotWritten, write_json, written_atomically
from lit_llm.runtime.code_key import code_key
from lit_llm.runtime.counted import counted
from lit_llm.runtime.progress_bars import Bar, at_work
from lit_llm.runtime.run_lock import alone
from lit_llm.text.tokenizer import Tokenizer

AT_ONCE = 4_000_000  # characters of texts that are searched together


@dataclass(frozen=True)
class Searcher:
    """What is looked for."""

    options: TextOptions
    split: str
    tokenizer: Tokenizer  # of files of tokens
    items: tuple[HeldoutItems, ...]


@dataclass(frozen=True)
class Task:
    """A portion to search."""

    portion: Portion
    shards: tuple[Path, ...]  # of its documents
    trained: NDArray[np.bool_]  # (documents,): those to search
    file: Path  # for what is found


def without_heldout(corpus: Corpus, others: Sequence[Document]) -> None:
    """Leaves out of a corpus' training texts those that hold what it, others, earlier stages or ``data.decontaminate``
    hold out.

    Raises UserError where the files are no longer what the shards were made of.
    """
    options = corpus.maker.options
    equal = np.array(corpus.fates)
    leave_out(corpus.shards, equal, {content_key(one) for one in others})
    corpus.leave_out(equal, {})
    heldout = [one for some in corpus.splits.values() for one in some] + list(others)
    searched = screening_of(options).searched(heldout, earlier=True)
    if not searched or not len(corpus.fates):
        return
    said = [(str(least), *(text for text, _ in items)) for _, items, least in searched]
    n, share = options.decontaminate_words, options.decontaminate_share
    key = content_hash([json.dumps([code_key(*CODE), n, share]), *(part for some in said for part in some)])[:16]
    done, first = corpus.folder / f"decontaminated-{key}.bin", corpus.folder / f"decontaminated-{key}.json"
    try:
        with alone(corpus.folder, waiting):
            if not first.is_file():
                with at_work("look for held-out items"):
                    items = tuple(
                        HeldoutItems([text for text, _ in some], n=n, share=share, least=least)
                        for _, some, least in searched
                    )
                sets = [(reason, [source for _, source in some]) for reason, some, _ in searched]
                fates, told = _searched(
                    corpus, Searcher(options, corpus.maker.split, corpus.maker.tokenizer, items), sets, key
                )
                with written_atomically(done) as file:
                    file.write(fates.tobytes())
                write_json(first, told)  # last: both are whole
                shutil.rmtree(corpus.folder / f"found-{key}", ignore_errors=True)
    except NotWritten as error:
        raise UserError(f"{error}; set data.cache_dir elsewhere") from None
    fates = np.memmap(done, np.uint8, "r")
    corpus.leave_out(fates, json.loads(first.read_text(encoding="utf-8")))


def _searched(
    corpus: Corpus, searcher: Searcher, sets: Sequence[tuple[str, Sequence[str]]], key: str
) -> tuple[Fates, dict[str, str]]:
    """The fates of all documents when what holds an item is left out; and what is told of the first."""
    folder = corpus.folder / f"found-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([sum(shard.documents for shard in some) for some in corpus.made])
    bounds = [0, *ends.tolist()]
    tasks = [
        Task(
            portion,
            tuple(Path(one.folder) for one in some),
            np.asarray(corpus.fates[begin:stop] == TRAIN),
            folder / f"{number}.npz",
        )
        for number, (portion, some, begin, stop) in enumerate(
            zip(corpus.portions, corpus.made, bounds, bounds[1:], strict=False)
        )
    ]
    missing = [task for task in tasks if not task.file.is_file()]
    total = sum(task.portion.size for task in tasks)
    count = min(searcher.options.prepare_workers or processors(), len(missing))
    with (
        nothing_unfinished(folder, "."),
        Bar(total=total, desc="look for held-out items", unit="B", unit_scale=True, leave=False) as bar,
    ):
        bar.update(total - sum(task.portion.size for task in missing))
        for task, _ in in_processes(partial(_search, searcher), fetched_ahead(iter(missing)), count):
            bar.update(task.portion.size)
    fates = np.array(corpus.fates)
    told: dict[str, str] = {}
    codes = {reason: fate for fate, reason in REASONS.items()}
    for number, (items, (reason, sources)) in enumerate(zip(searcher.items, sets, strict=True)):
        beside = " an earlier stage holds out, " if reason == "earlier_heldout" else " is held out, "
        telling = items.telling(_found(task, number, items) for task in tasks)
        for task, begin, some in zip(tasks, bounds, corpus.made, strict=False):
            for held in items.decided(_found(task, number, items), telling):
                if fates[begin + held.text] != TRAIN:  # by an earlier set
                    continue
                fates[begin + held.text] = codes[reason]
                told.setdefault(reason, f"{_where(some, held.text)}: holds what{beside}{sources[held.item]}")
    return fates, told


def _where(shards: Sequence[Shard], document: int) -> str:
    """File and line of a document of a portion."""
    bounds = bounds_of(shards)
    number = int(np.searchsorted(bounds, document, side="right")) - 1
    about = shards[number].about()[document - int(bounds[number])]
    return place(shards[number].files[int(about["file"])], int(about["line"]))


def _search(searcher: Searcher, task: Task) -> None:
    """Finds the items' n-grams in a portion's texts, and writes them to the task's file."""
    stores.use(searcher.options.cache_dir)
    codes: list[dict[int, list[NDArray[np.int64]]]] = [{n: [] for n in items.sizes} for items in searcher.items]
    totals = [np.zeros(len(task.trained), np.int64) for _ in searcher.items]
    for numbers, texts in _texts(searcher, task):
        for items, found_of, total in zip(searcher.items, codes, totals, strict=True):
            found = items.found_in(texts)
            total[numbers] = found.totals
            for n, size in items.sizes.items():
                found_of[n].append(numbers[found.codes[n] // size] * size + found.codes[n] % size)
    arrays: dict[str, Any] = {}
    for number, (found_of, total) in enumerate(zip(codes, totals, strict=True)):
        arrays[f"totals_{number}"] = total
        for n, some in found_of.items():
            arrays[f"codes_{number}_{n}"] = np.concatenate([np.zeros(0, np.int64), *some])
    with written_atomically(task.file) as file:
        np.savez(file, **arrays)


def _found(task: Task, number: int, items: HeldoutItems) -> Found:
    with np.load(task.file) as arrays:
        return Found({n: arrays[f"codes_{number}_{n}"] for n in items.sizes}, arrays[f"totals_{number}"])


def _texts(searcher: Searcher, task: Task) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
    """A portion's texts to search, some at a time, with their numbers among its documents."""
    reading = reading_of(replace(searcher.options, on_error="skip"), task.portion)  # what is bad was told of before
    wanted = np.flatnonzero(task.trained)
    rows = rows_of(task.portion, reading, searcher.tokenizer)
    texts: list[str] = []
    size = begin = 0
    for record in reading.again(rows, _places(task)):
        assert isinstance(record, Document)
        texts.append(record.text)
        size += len(record.text)
        if size >= AT_ONCE:
            yield wanted[begin : begin + len(texts)], texts
            begin, texts, size = begin + len(texts), [], 0
    if begin + len(texts) != len(wanted):
        raise UserError(
            f"{task.portion.files[0]}: is not what it was when its tokens were made ({begin + len(texts):,} of "
            f"{counted(len(wanted), 'text is', 'texts are')} there); start again when nobody writes to it"
        )
    if texts:
        yield wanted[begin:], texts


def _places(task: Task) -> Iterator[tuple[str, int, bytes]]:
    """File, line and key of each of a portion's texts to search."""
    begin = 0
    for shard in map(Shard, task.shards):
        about = shard.about()[task.trained[begin : begin + shard.documents]]
        begin += shard.documents
        for file, line, key in zip(about["file"].tolist(), about["line"].tolist(), about["key"].tolist(), strict=True):
            yield shard.files[file], line, key
