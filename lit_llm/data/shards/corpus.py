"""A corpus that memory need not hold: its shards, what it holds out, and what became of its rows.

Below ``data.cache_dir``, in ``tokens/``:

* ``shards/``: what processes made of portions. A shard is there when it is whole; a run that was killed goes on behind.
* ``corpora/KEY/``: what is known of all shards together, made when the last is there: ``manifest.json`` (last of all),
  ``fates.bin`` (a byte a document), ``heldout.jsonl.gz``. One process works in it at a time; others wait for it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.data.counts import Counts
from lit_llm.data.file_rows import place
from lit_llm.data.filters import content_key
from lit_llm.data.holding_out import FEW_TEXTS
from lit_llm.data.not_usable import known_at_the_end
from lit_llm.data.options import DataPath, TextOptions
from lit_llm.data.overview import kind_of
from lit_llm.data.reading import Reading, tell_unread
from lit_llm.data.shards.fates import HELD_OUT, REASONS, TRAIN, Fates, bounds_of, fates_of
from lit_llm.data.shards.making import Made, Maker, Task, join_rows, make, read_again, reading_of, rows_told
from lit_llm.data.shards.portions import Portion, fetched_ahead, portions
from lit_llm.data.shards.processes import in_processes, nothing_unfinished, processors
from lit_llm.data.shards.shard import Shard, opened, sha256
from lit_llm.data.shards.size import tell_of_many_held_out
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED
from lit_llm.data.token_cache import content_hash
from lit_llm.data.token_files import PREPARED
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.atomic_files import NotWritten, write_json, written_atomically
from lit_llm.runtime.counted import counted, verb
from lit_llm.runtime.progress_bars import Bar, at_work
from lit_llm.runtime.run_lock import alone
from lit_llm.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
SAID = {"duplicate": "says the same as an earlier row", "in_heldout": "a held-out row has its text or prompt"}
MANIFEST, FATES, HELDOUT = "manifest.json", "fates.bin", "heldout.jsonl.gz"


@dataclass
class Corpus:
    """A corpus in shards. ``splits``: what is held out."""

    path: DataPath
    folder: Path
    maker: Maker
    portions: list[Portion]
    made: list[list[Shard]]  # by portion
    fates: Fates
    splits: dict[str, list[Document]]
    counts: Counts
    says: str  # hash of all that its documents say
    named_by: str  # the file that names all of it, for runs elsewhere
    prepared: bool = False  # elsewhere: it was searched, its tokens are counted, and its texts are not here

    @property
    def content(self) -> str:
        """Hash of what is trained and what is held out: equal ones give equal rows."""
        return content_hash([self.says, hashlib.sha256(np.ascontiguousarray(self.fates).tobytes()).hexdigest()])

    @property
    def shards(self) -> list[Shard]:
        return [shard for some in self.made for shard in some]

    def by_shard(self) -> Iterator[tuple[Shard, Fates]]:
        """Each shard with the fates of its documents."""
        return _by_shard(self.shards, self.fates)

    def __getitem__(self, split: str) -> list[Document]:
        return self.splits.get(split, [])

    def leave_out(self, fates: Fates, first: Mapping[str, str]) -> None:
        """Documents that were to be trained are not, as ``fates`` says: counted, and named as ``first`` tells."""
        _count(self.counts, self.shards, fates, fates != self.fates, first, divided=True)
        self.fates = fates

    def count_tokens(self) -> None:
        """The tokens of what is trained, by kinds of files."""
        for shard, fates in self.by_shard():
            for kind, mine in _of_kinds(shard, fates == TRAIN):
                self.counts.overview.kinds[kind].tokens += int(shard.about()["tokens"][mine].sum())


def corpus_of(options: TextOptions, path: DataPath, tokenizer: Tokenizer) -> Corpus:
    """Reads a corpus into shards, or finds what an earlier run made of it.

    Raises UserError as ``reading.read_records`` does.
    """
    ignored: list[str] = []
    files = resolve(path, options.cache_dir, ignored)
    split = UNDIVIDED if UNDIVIDED in files else "train"
    reading = reading_of(options)
    tell_unread(path, ignored, "texts", reading.counts)
    tell_of_many_held_out(path, {name: some for name, some in files.items() if name != split})
    named = {
        name: [one for one in reading.records(reading.rows(some), name) if isinstance(one, Document)]
        for name, some in files.items()
        if name != split
    }
    reading.counts.overview.divide(named)
    wanted = {} if "validation" in named else {"validation": options.validation_fraction}
    wanted |= {} if any(name.startswith("test") for name in named) else {"test": options.test_fraction}
    wanted = {name: fraction for name, fraction in wanted.items() if fraction > 0}
    tokens = Path(options.cache_dir) / "tokens"
    maker = Maker(options, split, tokenizer, tokens / "shards", sum(wanted.values()))
    found = list(portions(files.get(split, []), reading.encoding, options.cache_dir))
    known = {content_key(one) for some in named.values() for one in some}
    key, how = maker.key(), [options.on_error, options.max_error_rate, sorted(wanted.items()), sorted(known)]
    folder = tokens / "corpora" / content_hash([key, repr(how), *(one.content for one in found)])[:32]
    try:
        with alone(folder, waiting):
            there = _opened(folder, maker.folder)
            if there is None:
                _make(folder, maker, key, found, path, reading, known, wanted)
                there = _opened(folder, maker.folder)
                assert there is not None, f"{folder} was just made"
    except NotWritten as error:
        raise UserError(
            f"{error.path}: cannot write the token cache ({error.reason}); set data.cache_dir elsewhere"
        ) from None
    told, made = there
    join_rows(reading, told["rows"])
    with known_at_the_end(reading.counts.overview):
        reading.end(path)
    documents = sum(shard.documents for some in made for shard in some)
    fates: Any = np.memmap(folder / FATES, np.uint8, "r") if documents else np.zeros(0, np.uint8)
    splits = heldout_in(folder / HELDOUT) | named
    says = content_hash([told["says"], *(content_key(one).hex() for some in named.values() for one in some)])
    return Corpus(path, folder, maker, found, made, fates, splits, reading.counts, says, str(folder / PREPARED))


def _opened(folder: Path, shards: Path) -> tuple[dict[str, Any], list[list[Shard]]] | None:
    """The manifest and the shards of each portion; None where one is not there, or a file is not what it was."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if {name: sha256(folder / name) for name in (FATES, HELDOUT)} != told["sha256"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    made = [[opened(shards / name) for name in some] for some in told["shards"]]
    whole = [[shard for shard in some if shard is not None] for some in made]
    return (told, whole) if [*map(len, made)] == [*map(len, whole)] else None


def waiting(holder: str) -> None:
    """Says for whom a run waits, which prepares the same data."""
    log.warning("data: waiting for %s, which prepares the same data", holder)


def _make(
    folder: Path,
    maker: Maker,
    key: str,
    found: Sequence[Portion],
    path: DataPath,
    reading: Reading,
    known: set[bytes],
    wanted: Mapping[str, float],
) -> None:
    """Shards, fates, held-out documents, manifest. ``reading``: of the held-out files, whose bad rows are told too."""
    options = maker.options
    made, train = _shards(maker, key, found)
    if train.bad is not None and (train.bad or reading.bad):
        assert reading.bad is not None
        reading.bad.join(train.bad)
        join_rows(reading, rows_told(train))
        with known_at_the_end(reading.counts.overview):
            reading.end(path)
    shards = [Shard(one) for some in made for one in some.shards]
    documents = sum(shard.documents for shard in shards)
    if wanted and 0 < documents < FEW_TEXTS:
        raise UserError(
            f"data.path={path}: {counted(documents, 'text is', 'texts are')} too few to hold some out; give files of "
            f"more, or raise data.stream_above={options.stream_above} so that they are read in memory and cut into "
            "blocks"
        )
    with at_work("look at all texts together"):
        fates = fates_of(shards, known, wanted, deduplicate=options.deduplicate != "off")
        _count(train.counts, shards, fates, np.isin(fates, list(REASONS)), {}, divided=False)
        _divide(train.counts, shards, fates)
        with written_atomically(folder / FATES) as file:
            file.write(fates.tobytes())
        write_heldout(folder / HELDOUT, _held_out_of(maker, found, made, fates))
        names = [[str(one.relative_to(maker.folder)) for one in some.shards] for some in made]
        hashes = {name: sha256(folder / name) for name in (FATES, HELDOUT)}
        told = {"shards": names, "rows": rows_told(train), "says": _says(shards), "sha256": hashes}
        write_json(folder / MANIFEST, told)


def _shards(maker: Maker, key: str, found: Sequence[Portion]) -> tuple[list[Made], Reading]:
    """The shards of all portions, in their order, and what became of the rows. Bad rows are in the reading."""
    made: dict[int, Made] = {}
    bad = False
    processes = min(maker.options.prepare_workers or processors(), len(found))
    read_since = 0

    def tasks() -> Iterator[Task]:
        for number, portion in enumerate(found):
            if bad and read_since > 100_000:
                return
            yield Task(number, portion, key, only_check=bad)

    total = sum(portion.size for portion in found)
    with (
        nothing_unfinished(maker.folder, "*"),
        Bar(total=total, desc="tokenize", unit="B", unit_scale=True, leave=False) as bar,
    ):
        for task, result in in_processes(partial(make, maker), fetched_ahead(tasks()), processes):
            made[task.number] = result
            bar.update(task.portion.size)
            bad = bad or bool(result.bad)
            read_since += int(result.rows["counts"]["read"]) if bad else 0
    reading = reading_of(maker.options)
    for number in sorted(made):
        join_rows(reading, made[number].rows)
        if reading.bad is None:
            continue
        if (later := made[number].bad) is not None:
            reading.bad.join(later)
        else:
            reading.bad.passed(int(made[number].rows["counts"]["read"]), found[number].files)
        reading.bad.cut = reading.bad.cut or len(made) < len(found)
    if reused := sum(result.reused for result in made.values()):
        every = sum(len(result.shards) for result in made.values())
        log.info("data: %d of %s %s there", reused, counted(every, "shard"), verb(reused, "was", "were"))
    return [made[number] for number in sorted(made)], reading


def _by_shard(shards: Sequence[Shard], values: Any) -> Iterator[tuple[Shard, Any]]:
    bounds = bounds_of(shards)
    for shard, begin, stop in zip(shards, bounds, bounds[1:], strict=False):
        yield shard, values[begin:stop]


def _of_kinds(shard: Shard, mine: Any) -> Iterator[tuple[str, Any]]:
    """Kinds of files, and which of a shard's documents that are ``mine`` are of each."""
    kinds = [kind_of(file) for file in shard.files]
    if len(set(kinds)) == 1:
        yield kinds[0], mine
        return
    file = shard.about()["file"]
    for kind in dict.fromkeys(kinds):
        yield kind, mine & np.isin(file, [number for number, name in enumerate(kinds) if name == kind])


def _count(
    counts: Counts, shards: Sequence[Shard], fates: Fates, changed: Any, first: Mapping[str, str], *, divided: bool
) -> None:
    """Documents that are ``changed`` are left out, for what is their fate now.

    Args:
        first: what is told of the first, by reason.
        divided: what is held out was counted before.
    """
    for reason, told in first.items():
        counts.first.setdefault(reason, told)
    for (shard, of), (_, now) in zip(_by_shard(shards, fates), _by_shard(shards, changed), strict=True):
        for fate, reason in REASONS.items():
            mine = now & (of == fate)
            if not mine.any():
                continue
            about = shard.about()
            one = int(np.flatnonzero(mine)[0])
            where = place(shard.files[int(about["file"][one])], int(about["line"][one]))
            counts.first.setdefault(reason, f"{where}: {SAID.get(reason, reason)}")
            counts.used -= int(mine.sum())
            counts.skipped[reason] += int(mine.sum())
            for kind, some in _of_kinds(shard, mine):
                if not some.any():
                    continue
                known = counts.overview.kinds[kind]
                known.used -= int(some.sum())
                known.skipped[reason] += int(some.sum())
                known.words -= int(about["words"][some].sum(dtype=np.int64))
                size = int(about["characters"][some].sum(dtype=np.int64))
                known.characters -= size
                known.size -= size if divided else 0
                if reason == "duplicate":  # what it is was not asked of others of its text
                    for number, language in enumerate(shard.facts["languages"]):
                        known.languages[language] -= int((about["language"][some] == number).sum())
                    known.languages = +known.languages


def _divide(counts: Counts, shards: Sequence[Shard], fates: Fates) -> None:
    """The characters of what is used, and of what of it is held out, by kinds of files."""
    for shard, of in _by_shard(shards, fates):
        for name, mine in (("train", of == TRAIN), ("held out", np.isin(of, list(HELD_OUT.values())))):
            for kind, some in _of_kinds(shard, mine):
                known = counts.overview.kinds[kind]
                size = int(shard.about()["characters"][some].sum(dtype=np.int64))
                known.size += size
                known.heldout += size if name != "train" else 0


def _held_out_of(
    maker: Maker, found: Sequence[Portion], made: Sequence[Made], fates: Fates
) -> Iterator[tuple[str, Document]]:
    """(split, document) of all that is held out, in the corpus' order."""
    names = {fate: name for name, fate in HELD_OUT.items()}
    begin = 0
    for portion, some in zip(found, made, strict=True):
        for shard in map(Shard, some.shards):
            of = fates[begin : begin + shard.documents]
            begin += shard.documents
            wanted = np.flatnonzero(np.isin(of, list(names))).tolist()
            texts = dict(shard.heldout(wanted))
            if missing := [number for number in wanted if number not in texts]:
                texts |= read_again(maker, portion, shard, missing)
            yield from ((names[int(of[number])], texts[number]) for number in wanted)


def write_heldout(file: Path, documents: Iterable[tuple[str, Document]]) -> None:
    """Writes (split, document) of what is held out. Raises NotWritten."""
    with written_atomically(file) as whole, gzip.GzipFile("", "wb", 1, whole, mtime=0) as lines:
        for name, document in documents:
            row = {"split": name, "text": document.text, "source": document.source, "tags": document.tags,
                   "parts": document.parts, "file": document.file}  # fmt: skip
            lines.write(json.dumps(row).encode() + b"\n")


def heldout_in(file: Path) -> dict[str, list[Document]]:
    """What ``write_heldout`` wrote, by split."""
    splits: dict[str, list[Document]] = {}
    with gzip.open(file, "rb") as lines:
        for line in lines:
            row = json.loads(line)
            parts = tuple((int(at), str(name)) for at, name in row["parts"])
            one = Document(row["text"], row["source"], row["tags"], parts, row["file"])
            splits.setdefault(row["split"], []).append(one)
    return splits


def _says(shards: Sequence[Shard]) -> str:
    """Hash of what every document says, in their order and shards."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.documents.to_bytes(8, "big"))
        digest.update(np.ascontiguousarray(shard.about()["key"]).tobytes())
    return digest.hexdigest()
