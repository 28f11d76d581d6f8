"""Raw text for pretraining: documents end to end, each with its end token, split into rows of one length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lit_llm.data.counts import Counts, merged_counts, moved
from lit_llm.data.data_module import DataModule
from lit_llm.data.filters import without_overlap
from lit_llm.data.loading import JoinedRows, Order, mixed
from lit_llm.data.not_usable import of_key
from lit_llm.data.options import DataPath, TextOptions
from lit_llm.data.packing import PackedRows, concatenate_and_split
from lit_llm.data.prepared import Prepared, records_hash, splits_hash, tests_of
from lit_llm.data.quality.screening import screening_of
from lit_llm.data.reading import Records, read_records
from lit_llm.data.samples import Decode, Part, packed
from lit_llm.data.shards.corpus import Corpus, corpus_of
from lit_llm.data.shards.order import Interleaved, Shuffle, Shuffled, Windowed
from lit_llm.data.shards.prepared import FilesAhead, hold_apart, prepared_corpus
from lit_llm.data.shards.rows import ShardedRows
from lit_llm.data.shards.sample import sample
from lit_llm.data.shards.size import is_streamed
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Document, TokenBatch
from lit_llm.runtime.counted import counted, verb


@dataclass(frozen=True)
class TextSource:
    """One of the corpora that are mixed. A source that is replayed is added to the rows of those that are not."""

    name: str
    path: DataPath
    weight: float | None = None  # its share among the sources; None: as many rows as it has
    replayed: bool = False

    @property
    def key(self) -> str:
        """The key that names it where it is no data of the user's own; else ""."""
        return "data.replay_path" if self.replayed else ""


class RawText(DataModule):
    """Rows of raw text from files, folders, globs, or the documentation on this disk. Options: ``TextOptions``."""

    Options: ClassVar[type[TextOptions]] = TextOptions
    batch_type = TokenBatch
    options: TextOptions

    def sources(self) -> list[TextSource]:
        """The corpora that are mixed, in the order of ``source_names``."""
        return weighted_sources(self.options.path, self.options.name)

    @classmethod
    def tokenizer_texts(cls, options: TextOptions | None = None) -> Iterator[str]:
        """The training texts before there is a tokenizer: what is held out is held out of the vocabulary too."""
        options = cls.Options() if options is None else options
        for source in weighted_sources(options.path, ""):
            if is_streamed(options, source.path):
                yield from sample(options, source.path)
            else:
                records = read_records(source.path, "texts", options)
                yield from (document.text for document in records["train"])

    def _parameters(self) -> dict[str, Any]:
        mix = [[source.name, source.weight, source.replayed] for source in self.sources()]
        return {"max_length": self.options.max_length, "mix": mix}

    def _prepare(self) -> Prepared:
        sources = self.sources()
        self._shards: dict[str, int] = {}  # by the file that names them
        reads = [self._corpus(source) for source in sources]
        training, overlaps = self._training_documents(sources, reads)
        train = [
            self._sharded(index, source, read)
            if isinstance(read, Corpus)
            else self._rows(index, source, documents, "train", read.counts)
            for index, (source, read, documents) in enumerate(zip(sources, reads, training, strict=True))
        ]
        validation = {
            source.name: self._rows(index, source, read["validation"], "validation")
            for index, (source, read) in enumerate(zip(sources, reads, strict=True))
        }
        sizes = [len(rows) for rows in train]
        per_epoch = self._rows_per_epoch(sources, sizes)
        self._replayed_rows = sum(n for source, n in zip(sources, per_epoch, strict=True) if source.replayed)
        counts = [moved(read.counts.as_dict(), overlap) for read, overlap in zip(reads, overlaps, strict=True)]
        replayed = [each for source, each in zip(sources, counts, strict=True) if source.replayed]
        own = [each for source, each in zip(sources, counts, strict=True) if not source.replayed]
        return Prepared(
            train=JoinedRows(train),
            order=self._order(train, per_epoch),
            validation=validation,
            heldout=tuple(
                test
                for source, read in zip(sources, reads, strict=True)
                for test in tests_of(Records(read.splits, read.counts), source.name, "documents")
            ),
            counts=merged_counts(*own) | ({"replayed": merged_counts(*replayed)} if replayed else {}),
            content=content_hash(read.content if isinstance(read, Corpus) else splits_hash(read) for read in reads),
            train_tokens=sum(
                round(rows.num_positions * quota / max(1, len(rows)))
                for rows, quota in zip(train, per_epoch, strict=True)
            ),
        )

    def epoch_in_words(self) -> str:
        """How many rows an epoch has, of what kind they are, and how many of them are replayed."""
        told = super().epoch_in_words()
        return f"{told}, {self._replayed_rows:,} of them replayed" if self._replayed_rows else told

    def places(self) -> list[str]:
        """The ``prepared.json`` of each source in shards."""
        _ = self.prepared
        return [f"in {counted(n, 'shard')}: {place}" for place, n in self._shards.items()]

    def _corpus(self, source: TextSource) -> Records | Corpus:
        """A source in memory; or in shards, whose rows are counted when it is known what of them is trained."""
        with of_key(source.key):
            if is_streamed(self.options, source.path):
                given = self.options, source.path, self.tokenizer
                return prepared_corpus(*given) or corpus_of(*given)
            records = read_records(source.path, "texts", self.options)
        self._remember(source.path, records.counts, source.key)
        return records

    def _training_documents(
        self, sources: Sequence[TextSource], reads: Sequence[Records | Corpus]
    ) -> tuple[list[list[Document]], list[Counter[str]]]:
        """What each source in memory trains on, without what another source holds out; and how many of each were left
        out, by reason. Of sources in shards the same is left out there."""
        training = [read["train"] if self._trains_on(s) else [] for s, read in zip(sources, reads, strict=True)]
        dropped = [Counter[str]() for _ in sources]
        heldout = [[d for split, items in read.splits.items() if split != "train" for d in items] for read in reads]
        for number, (source, read) in enumerate(zip(sources, reads, strict=True)):
            others = [document for n, held in enumerate(heldout) if n != number for document in held]
            if isinstance(read, Corpus) and self._trains_on(source):
                hold_apart(read, others)
            if isinstance(read, Corpus):
                self._shards[read.named_by] = len(read.shards)
                self._remember(source.path, read.counts, source.key)
        if len(sources) == 1:
            return training, dropped
        screening = screening_of(replace(self.options, decontaminate=()))  # each source was held against all named sets
        for number, documents in enumerate(training):
            if isinstance(reads[number], Corpus):
                continue
            others = [document for n, held in enumerate(heldout) if n != number for document in held]
            kept, dropped_here = without_overlap(documents, chain.from_iterable(heldout))
            dropped[number]["in_heldout"] += dropped_here
            for reason, search in (
                ("near_heldout", screening.near_heldout),
                ("decontaminated", screening.holding_heldout),
            ):
                told = search(kept, others)
                dropped[number][reason] += len(told)
                if told:
                    self._first_bad.setdefault(reason, next(iter(told.values())))
                kept = [document for n, document in enumerate(kept) if n not in told]
            training[number] = kept
        return training, dropped

    def _trains_on(self, source: TextSource) -> bool:  # noqa: ARG002
        return True

    def _rows(
        self, index: int, source: TextSource, documents: list[Document], split: str, counts: Counts | None = None
    ) -> PackedRows:
        store = self._tokenized(documents, f"tokenize {source.name} {split}")
        self._count_tokens(documents, store, key=source.key)
        plan = concatenate_and_split(np.maximum(store.lengths - 1, 0), self.options.max_length)
        rows = PackedRows(store, plan, pad_id=self.tokenizer.pad_id, source=index)
        if split == "train":
            self._check_enough(source, rows, counts)
        return rows

    def _sharded(self, index: int, source: TextSource, corpus: Corpus) -> ShardedRows:
        rows = ShardedRows(
            corpus.shards, corpus.fates, self.options.max_length, pad_id=self.tokenizer.pad_id, source=index
        )
        self._check_enough(source, rows, corpus.counts)
        return rows

    def _check_enough(self, source: TextSource, rows: PackedRows | ShardedRows, counts: Counts | None) -> None:
        tokens = rows.num_positions
        if self._trains_on(source) and tokens < self.options.max_length:
            raise UserError(
                f"{source.key or 'data.path'}={source.path}: {counted(tokens, 'token')} to train on "
                f"{verb(tokens, 'is', 'are')} less than one row of data.max_length={self.options.max_length}; give "
                "more text or a smaller max_length" + (f" ({counts})" if counts is not None else "")
            )

    def _order(self, train: Sequence[PackedRows | ShardedRows], per_epoch: Sequence[int]) -> Order:
        """The order of the rows: all of it at once, where no source is in shards."""
        sizes, seed = [len(rows) for rows in train], self.options.seed
        if not any(isinstance(rows, ShardedRows) for rows in train):
            return mixed(sizes, per_epoch, seed)
        shuffles: list[Shuffle] = []
        for number, rows in enumerate(train):
            if isinstance(rows, ShardedRows):
                shuffles.append(Windowed(rows.sizes, seed, number, FilesAhead(rows).shards))
            else:
                shuffles.append(Shuffled(len(rows), seed, number))
        return Interleaved(sizes, per_epoch, shuffles)

    def _sample(self, rows: Any, row: int, decode: Decode) -> Iterator[Part]:
        while not isinstance(rows, PackedRows):
            rows, row = rows.place(row)
        yield from packed(rows, row, decode, "next document")

    def _tokenized(self, documents: list[Document], description: str) -> TokenStore:
        tokenizer = self.tokenizer
        beginning = tokenizer.beginning

        def encode(batch: Sequence[Document]) -> list[Encoded]:
            encoded = tokenizer.encode_batch([document.text for document in batch])
            return [([*beginning, *ids, tokenizer.document_end_id], None) for ids in encoded]

        return cached_tokens(
            documents,
            encode,
            key=content_hash(["documents", tokenizer.fingerprint(), records_hash(documents)]),
            cache_dir=self.options.cache_dir,
            size_of=lambda document: len(document.text),
            description=description,
        )

    def _rows_per_epoch(self, sources: Sequence[TextSource], sizes: Sequence[int]) -> list[int]:
        """Rows of each source in an epoch."""
        weights = [size if s.weight is None else s.weight for s, size in zip(sources, sizes, strict=True)]
        return apportioned(sum(sizes), weights)


def apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` in whole numbers in proportion to the weights, by largest remainders: the sum is exact."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    shares = np.floor(exact + 1e-9).astype(np.int64)
    for index in np.argsort(-(exact - shares), kind="stable")[: total - int(shares.sum())]:
        shares[index] += 1
    return [int(share) for share in shares]


def weighted_sources(path: DataPath, name: str) -> list[TextSource]:
    """One source; or from {path: weight} one for each, named after its file or folder.

    Raises UserError for weights that are none. {split: path} is one source.
    """
    if not isinstance(path, Mapping) or any(not isinstance(weight, int | float) for weight in path.values()):
        return [TextSource(name, path)]
    if not path:
        raise UserError("data.path={}: the mapping is empty; give {path: weight}")
    sources: list[TextSource] = []
    for place, weight in path.items():
        part = str(place)
        if isinstance(weight, bool) or not 0 < weight < float("inf"):
            raise UserError(f"data.path: the weight of {part} is {weight}; give a number above 0, or leave it out")
        stem = Path(part).name.split(".")[0].strip("*?") or Path(part).parent.name or "corpus"
        taken = {source.name for source in sources}
        names = chain([stem], (f"{stem}_{number}" for number in count(2)))  # a name is a file's name too: no path
        sources.append(TextSource(next(name for name in names if name not in taken), part, float(weight)))
    return sources
