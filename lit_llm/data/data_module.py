"""What all DataModules share: reading, one preparation, resumable loaders, counts and fingerprint."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from lit_llm.data.archives import home
from lit_llm.data.bad_rows import BadRows
from lit_llm.data.counts import Counts
from lit_llm.data.dropped_rows import shares, warn
from lit_llm.data.filters import Record
from lit_llm.data.formats import Kind
from lit_llm.data.loading import JoinedRows, Order, ResumableLoader, Rows, shuffled
from lit_llm.data.options import DataOptions, DataPath
from lit_llm.data.overview import Overview
from lit_llm.data.packing import PackedRows
from lit_llm.data.prepared import Prepared
from lit_llm.data.reading import Expand, Records, read_records
from lit_llm.data.refused_rows import Refusable, why_refused
from lit_llm.data.row_errors import RowError
from lit_llm.data.samples import Decode, Part
from lit_llm.data.sources import resolve
from lit_llm.data.token_cache import TokenStore, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Heldout
from lit_llm.runtime.counted import counted
from lit_llm.text.tokenizer import Tokenizer

T = TypeVar("T")


class DataModule(L.LightningDataModule, ABC):
    """Reads, tokenizes and packs once, when something is first asked of it.

    Args:
        options: what a configuration gives; None: the defaults of ``Options``.
        tokenizer: turns text into ids.
    """

    Options: ClassVar[type[DataOptions]] = DataOptions
    batch_type: ClassVar[type]
    options: DataOptions

    def __init__(self, options: DataOptions | None = None, *, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.options = self.Options() if options is None else options
        self.tokenizer = tokenizer
        self._first_bad: dict[str, str] = {}  # by reason
        self._prepared: Prepared | None = None
        self._files: dict[str, None] = {}  # an ordered set
        self._overview = Overview()
        self._bad = BadRows()  # that were read, and end the run all the same

    @abstractmethod
    def _prepare(self) -> Prepared:
        """Reads and packs. Raises UserError for what the user can mend."""

    @abstractmethod
    def _parameters(self) -> dict[str, Any]:
        """What the rows depend on besides records, tokenizer and seed: part of the fingerprint."""

    def _read(self, path: DataPath, kind: Kind, expand: Expand | None = None) -> Records:
        records = read_records(path, kind, self.options, expand=expand)
        self._remember(path, records.counts)
        return records

    def _remember(self, path: DataPath, counts: Counts, key: str = "") -> None:
        """What was read, for those who ask later. ``key``: which names it, of data beside the user's own."""
        not_trained = (*self.options.decontaminate, *self.options.earlier_heldout)
        for place in (path, *(not_trained if self.options.decontaminate_words else ())):
            found = resolve(place, self.options.cache_dir).values()
            self._files |= dict.fromkeys(home(file) for files in found for file in files)
        if self._prepared is None:  # what is read again later is counted already
            self._overview.of_key(key).__iadd__(counts.overview)
        self._first_bad = counts.first | self._first_bad

    @property
    def prepared(self) -> Prepared:
        if self._prepared is None:
            self._overview, self._bad = Overview(), BadRows()
            self._prepared = self._prepare()
            told = self._prepared
            warn(told.counts, self._overview.whole.noun, self.options.name, told.remedies, self._first_bad)
        return self._prepared

    def _count_tokens(
        self, records: Sequence[Record], store: TokenStore, parts: Sequence[int] | None = None, key: str = ""
    ) -> None:
        """Of records that are trained or validated; ``parts``: documents in the store of each record, where not 1.
        ``key``: as of ``_remember``."""
        lengths = store.lengths
        if parts is not None and len(records):
            lengths = np.add.reduceat(lengths, np.concatenate([[0], np.cumsum(parts)[:-1]]).astype(np.int64))
        self._overview.of_key(key).add_tokens(records, lengths.tolist())

    @property
    def overview_so_far(self) -> Overview:
        """What is read of the data, also where no rows to train on came of it."""
        return self._overview

    def overview(self) -> Overview:
        """What the data is, by kinds of files."""
        _ = self.prepared
        return self._overview

    def epoch_in_words(self) -> str:
        """How many rows an epoch has, and of what kind they are."""
        longest: int | None = getattr(self.options, "max_length", None)
        if longest and isinstance(self.prepared.train, PackedRows | JoinedRows):
            return f"{counted(self.rows_per_epoch, 'packed row')} of up to {counted(longest, 'token')}"
        return counted(self.rows_per_epoch, "row")

    def places(self) -> list[str]:
        """Where what was made of the data is, for people; what is in the token cache alone is not told."""
        return []

    def left_out_later(self) -> dict[str, int]:
        """Rows that were left out after they were read, by reason."""
        whole = self.overview().whole
        read = whole.skipped + whole.unread + whole.broken_off
        return {name: n - read[name] for name, n in self.prepared.counts["skipped"].items() if n > read[name]}

    def samples(self, count: int) -> list[list[Part]]:
        """The first rows of the first epoch, as the model sees them (``samples.py``)."""
        order = self.prepared.order(0)
        rows = [int(order[place]) for place in range(min(count, len(order)))]
        return [list(self._sample(self.prepared.train, row, self._decode)) for row in rows]

    def _sample(self, rows: Rows, row: int, decode: Decode) -> Iterable[Part]:  # noqa: ARG002
        """A row of ``rows`` in parts. Data of one's own that says nothing has no samples."""
        return ()

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=False)

    def _encoded_or(self, nothing: T, encode: Callable[[], T]) -> T:
        """What a chat template makes of a record; where it refuses it ``nothing``, which ``_refused`` tells of."""
        try:
            return encode()
        except UserError:
            return nothing

    def _refused(self, record: Refusable, encode: Callable[[Any], Any]) -> None:
        """A record of which the chat template made no token, now or when its tokens were cached."""
        self._left_out(record, "template_refuses", lambda: why_refused(record, encode))

    def _left_out(self, record: Refusable, reason: str, why: Callable[[], str]) -> None:
        """A record that was read, and of which nothing can be trained: it is none that is used, and with
        ``data.on_error=stop`` ends the run together with all others (``_end_at_bad``)."""
        self._overview.leave_out(record, reason)
        stops = self.options.on_error == "stop"
        bad = self._bad if stops else self._overview.bad
        told = bad.wants(reason) or reason not in self._first_bad
        line = f"{record.source}: {why()}" if told else ""
        if told:
            self._first_bad.setdefault(reason, line)
        bad.add(RowError(reason, line))

    def _end_at_bad(self, records: Records) -> None:
        """Raises UserError for all records that were left out, where one ends the run."""
        if self._bad:
            every = [one for some in records.splits.values() for one in some]
            self._bad.passed(len(every), {one.file for one in every})
            self._bad.end(getattr(self.options, "path", ""))

    def _check_template(self) -> None:
        """A template that fails whatever the conversation is an error of its own, and of no row."""
        self.tokenizer.chat.turn_format(self.tokenizer)

    def dropped_shares(self) -> dict[str, float]:
        """By reason: ``dropped_rows.shares``."""
        return shares(self.prepared.counts)

    # What Lightning calls

    def prepare_data(self) -> None:
        """On one process per machine, before all others: they find the tokens in the cache."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        _ = self.prepared

    def train_dataloader(self) -> ResumableLoader:
        prepared = self.prepared
        order = prepared.order
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            order = _always_the_first_epoch(order)
        loader = self._loader(prepared.train, order)
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        # As Lightning reads the limit: a whole number counts batches, a fraction is a share of them.
        loader.max_batches = limit if isinstance(limit, int) else None if limit == 1.0 else int(len(loader) * limit)
        return loader

    def val_dataloader(self) -> list[ResumableLoader]:
        """One loader for each of ``source_names``. Its order is shuffled once, so that a limit takes a fair sample."""
        validation = self.prepared.validation
        if not any(len(rows) for rows in validation.values()):
            return []
        return [self._loader(rows, _always_the_first_epoch(shuffled(len(rows), 0))) for rows in validation.values()]

    def test_dataloader(self) -> list[DataLoader[Heldout]]:
        """One loader for each held-out set, which gives it whole. Raises UserError where nothing is held out."""
        sets = [one for one in self.heldout() if one.items]
        if not sets:
            raise UserError(f"data.test_fraction={self.options.test_fraction}: no row is held out for a test")
        return [DataLoader([one], batch_size=None, collate_fn=_as_it_is) for one in sets]  # type: ignore[arg-type]

    def predict_dataloader(self) -> Any:
        """The validation batches."""
        return self.val_dataloader()

    @property
    def device_type(self) -> str:
        """Of what reads the batches: "cpu" where no Trainer says otherwise."""
        return "cpu" if self.trainer is None else str(self.trainer.strategy.root_device.type)

    def placed(self, rows: Rows) -> Rows:
        """The rows as they make batches for the device; most make the same for all."""
        return rows

    def _loader(self, rows: Rows, order: Order) -> ResumableLoader:
        return ResumableLoader(
            self.placed(rows),
            self.options.rows_at_once,
            order=order,
            fingerprint=self.fingerprint(),
            num_workers=self.options.num_workers,
            accept_changed_data=self.options.accept_changed_data,
        )

    # What the other rooms ask

    def heldout(self) -> list[Heldout]:
        """The test sets as plain records, under names that stay the same from run to run."""
        return list(self.prepared.heldout)

    def fingerprint(self) -> str:
        """SHA-256 of the records' contents, the tokenizer, the parameters and the seed: equal means equal batches."""
        parameters = json.dumps({**self._parameters(), "seed": self.options.seed}, sort_keys=True)
        return content_hash([type(self).__name__, self.prepared.content, self.tokenizer.fingerprint(), parameters])

    def files(self) -> list[str]:
        """Every file that was read, for the lineage; a data set of the hub under its ``hub:`` name."""
        _ = self.prepared
        return list(self._files)

    def counts(self) -> dict[str, Any]:
        """Records ``read`` = ``used`` + the sum of ``skipped`` (by reason); and what else happened to them."""
        return dict(self.prepared.counts)

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the numbers in ``TokenBatch.source`` and of the validation loaders stand for."""
        return tuple(self.prepared.validation)

    @property
    def rows_per_epoch(self) -> int:
        """Rows that an epoch trains, of all sources; of general text the share that is replayed."""
        return len(self.prepared.order(0))

    @property
    def train_tokens(self) -> int:
        """Labels that are trained in one epoch."""
        return self.prepared.train_tokens


def _always_the_first_epoch(order: Order) -> Order:
    return lambda _: order(0)


def _as_it_is(item: T) -> T:
    return item
