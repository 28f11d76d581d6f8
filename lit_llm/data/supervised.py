"""Conversations to learn answers from: what task pairs and instructions share.

Only the assistant's turns are trained, each with its end token. Rows hold whole conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lit_llm.data.counts import moved
from lit_llm.data.data_module import DataModule
from lit_llm.data.dropped_rows import room
from lit_llm.data.loading import shuffled
from lit_llm.data.options import SupervisedDataOptions
from lit_llm.data.packing import PackedRows, Plan, best_fit_decreasing, one_per_row, trained_labels
from lit_llm.data.prepared import Prepared, records_hash, splits_hash, tests_of
from lit_llm.data.reading import Records
from lit_llm.data.samples import Decode, Part, packed
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Example, Message, TokenBatch


class SupervisedData(DataModule):
    """Rows of conversations, with labels on the assistant's turns. Options: ``SupervisedDataOptions``."""

    Options: ClassVar[type[SupervisedDataOptions]] = SupervisedDataOptions
    batch_type = TokenBatch
    options: SupervisedDataOptions

    def _parameters(self) -> dict[str, Any]:
        names = ("max_length", "packing", "train_on_prompt", "train_last_only", "overlong")
        return {name: getattr(self.options, name) for name in names}

    def training_answers(self) -> list[str]:
        """What the assistant says in the training split: an answer found among these is remembered, not meant."""
        return [
            message.content
            for example in self._read(self.options.path, "examples")["train"]
            for message in self._learned(example.messages)
            if message.role == "assistant" and message.trained
        ]

    def _prepare(self) -> Prepared:
        self._check_template()
        records, unasked = self._asked(self._read(self.options.path, "examples"))
        records, parts = self._in_sequences(records)
        train, fit = self._rows(records["train"], "train")
        validation, validation_fit = self._rows(records["validation"], "validation")
        tested, refused_tests = self._tests_that_render(records)
        self._end_at_bad(records)
        records = tested
        needed = room("max_length", np.concatenate([fit.needed, validation_fit.needed]).tolist())
        if len(train) == 0:
            unusable = {**fit.reasons, "no_weight": unasked}
            why = ", ".join(f"{reason} {n}" for reason, n in unusable.items() if n)
            refused = self._first_bad.get("template_refuses")
            longer = f"data.max_length is {self.options.max_length}: {needed}; data.overlong=truncate cuts them"
            longer = longer if fit.reasons["too_long"] else "an answer is trained unless its weight is 0"
            raise UserError(
                f"data.path={self.options.path}: no conversation to train on (skipped: {why or 'none was read'}); "
                f"{f'the first: {refused}' if refused else longer}"
            )
        reasons = {reason: fit.reasons[reason] + validation_fit.reasons[reason] for reason in fit.reasons}
        reasons["template_refuses"] += refused_tests
        reasons["no_weight"] = unasked
        counts = moved(with_parts(records.counts.as_dict(), parts), reasons)
        return Prepared(
            train=train,
            order=shuffled(len(train), self.options.seed),
            validation={self.options.name: validation},
            heldout=tuple(tests_of(records, self.options.name, "responses")),
            counts={**counts, "truncated": fit.truncated + validation_fit.truncated},
            content=splits_hash(records),
            train_tokens=len(trained_labels(train.documents, train.plan)),
            remedies={
                "too_long": f"{needed}; data.overlong=truncate cuts them from the left",
                "truncated": f"{needed} whole",
            },
        )

    def _asked(self, records: Records) -> tuple[Records, int]:
        """The records less those of weight 0, and how many: they are neither learned nor a test of what was."""
        splits = {}
        for name, members in records.splits.items():
            learned = last_alone if name.startswith("test") else self._learned
            splits[name] = [
                one for one in members if any(m.trained for m in learned(one.messages) if m.role == "assistant")
            ]
        dropped = sum(map(len, records.splits.values())) - sum(map(len, splits.values()))
        return Records(splits, records.counts), dropped

    def _in_sequences(self, records: Records) -> tuple[Records, int]:
        """The records with each conversation in as many sequences as its reasoning needs, and how many more they are.

        Where every token is trained, conversations stay whole.
        """
        if self.options.train_on_prompt:
            return records, 0
        splits, more = {}, 0
        for name, members in records.splits.items():
            found = []
            for one in members:
                messages = one.messages if name.startswith("test") else self._learned(one.messages)
                parts = self.tokenizer.sequences(messages)
                found += [replace(one, messages=part) for part in parts] if len(parts) > 1 else [one]
            splits[name], more = found, more + len(found) - len(members)
        return Records(splits, records.counts), more

    def _rows(self, examples: list[Example], split: str) -> tuple[PackedRows, Fit]:
        if self.options.train_on_prompt:
            self._check_all_trained(examples)
        store = self._tokenized(examples, f"tokenize {self.options.name} {split}")
        self._count_tokens(examples, store)
        fit = fitted(store, self.options.max_length, truncate=self.options.overlong == "truncate")
        self._check_rendered(store, examples)
        for example in _once(examples, fit.untrained):
            self._left_out(example, "no_trained_token", lambda: "no token of an answer to train on")
        pack = best_fit_decreasing if self.options.packing else one_per_row
        packed = pack(fit.positions, self.options.max_length)
        plan = Plan(packed.document, fit.starts[packed.document], packed.length, packed.row_bounds, packed.capacity)
        documents = WhollyTrained(store) if self.options.train_on_prompt else store
        return PackedRows(documents, plan, pad_id=self.tokenizer.pad_id, trim=not self.options.packing), fit

    def _check_all_trained(self, examples: list[Example]) -> None:
        """Raises UserError for a turn of weight 0 where every token is to be trained."""
        for example in examples:
            if any(not m.trained for m in example.messages if m.role == "assistant"):
                raise UserError(
                    f"{example.source}: a turn has weight 0, and data.train_on_prompt=true trains every token; leave "
                    "out one of the two"
                )

    def _check_rendered(self, store: TokenStore, examples: list[Example]) -> None:
        """Tells of the conversations that the template refuses."""
        for example in _once(examples, np.flatnonzero(store.lengths == 0)):
            self._refused(example, lambda one: self.tokenizer.encode_chat(self._learned(one.messages)))

    def _tests_that_render(self, records: Records) -> tuple[Records, int]:
        """The records less the tests that the template refuses, and how many: no run's end is lost to one."""
        splits, refused = dict(records.splits), 0
        for name, tests in records.splits.items():
            if name.startswith("test"):
                store = self._tokenized(tests, f"tokenize {self.options.name} {name}")
                self._check_rendered(store, tests)
                splits[name] = [one for one, length in zip(tests, store.lengths.tolist(), strict=True) if length]
                refused += len(tests) - len(splits[name])
        return Records(splits, records.counts), refused

    def _sample(self, rows: Any, row: int, decode: Decode) -> Iterator[Part]:
        yield from packed(rows, row, decode, "next conversation")

    def _tokenized(self, examples: list[Example], description: str) -> TokenStore:
        self.tokenizer.chat.check(self.tokenizer)
        parameters = [str(self.options.train_last_only), self.tokenizer.fingerprint()]
        return cached_tokens(
            examples,
            lambda batch: [self._encoded(example) for example in batch],
            key=content_hash(["examples", *parameters, records_hash(examples)]),
            cache_dir=self.options.cache_dir,
            size_of=lambda example: sum(len(message.content) for message in example.messages),
            description=description,
        )

    def _learned(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the marks of which are trained."""
        return last_alone(messages) if self.options.train_last_only else messages

    def _encoded(self, example: Example) -> Encoded:
        nothing: tuple[list[int], list[bool]] = ([], [])
        messages = self._learned(example.messages)
        ids, trained = self._encoded_or(nothing, lambda: self.tokenizer.encode_chat(messages))
        mask = np.asarray(trained, dtype=bool)
        if not mask.any():
            return ids, mask.tolist()
        last = int(np.flatnonzero(mask)[-1])
        # What a template writes after the last answer's end token is never sampled: it would only take up room.
        return ids[: last + 1], mask[: last + 1].tolist()


def _once(examples: Sequence[Example], numbers: NDArray[np.int64]) -> list[Example]:
    """The examples of these numbers; of several sequences of one conversation the first."""
    found: dict[str, Example] = {}
    for number in numbers.tolist():
        found.setdefault(examples[number].source, examples[number])
    return list(found.values())


def with_parts(counts: Mapping[str, Any], more: int) -> dict[str, Any]:
    """The counts of rows, of which some became ``more`` sequences than they were: each counts as a row."""
    if not more:
        return dict(counts)
    return {**counts, "read": counts["read"] + more, "used": counts["used"] + more, "parts": more}


def last_alone(messages: Sequence[Message]) -> list[Message]:
    """The messages with the last of the assistant's as the only one that is trained, if it is to be."""
    last = max((n for n, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return [replace(message, trained=message.trained and n == last) for n, message in enumerate(messages)]


class WhollyTrained:
    """Documents of which every token is a label."""

    def __init__(self, store: TokenStore) -> None:
        self.tokens = store.tokens

    def trained(self, document: int, start: int, stop: int) -> NDArray[np.bool_]:  # noqa: ARG002
        return np.ones(stop - start, dtype=bool)


def _run_length(mask: NDArray[np.bool_]) -> int:
    """Length of the run of True that a mask ends with."""
    off = np.flatnonzero(~mask)
    return len(mask) if off.size == 0 else len(mask) - 1 - int(off[-1])


@dataclass(frozen=True)
class Fit:
    """What of each document goes into a row. A document without a position is left out."""

    positions: NDArray[np.int64]  # (documents,)
    starts: NDArray[np.int64]  # (documents,): its first position that is kept
    untrained: NDArray[np.int64]  # documents without a trained label, less those that the template refused
    needed: NDArray[np.int64]  # positions that each document with a trained label has in all
    reasons: dict[str, int]
    truncated: int


def fitted(store: TokenStore, max_length: int, *, truncate: bool) -> Fit:
    """Decides what of each conversation fits into ``max_length`` positions."""
    positions = np.maximum(store.lengths - 1, 0)
    starts = np.zeros_like(positions)
    untrained: list[int] = []
    needed: list[int] = []
    dropped, truncated = 0, 0
    for document, length in enumerate(positions.tolist()):
        mask = store.trained(document, 1, length + 1)  # of the labels of positions 0, 1, ...
        answer = length - _run_length(mask)  # the position whose label begins the last answer
        start = max(0, length - max_length)
        while (
            truncate and 0 < start < answer and mask[start] and mask[start - 1]
        ):  # no answer is learned without its beginning
            start += 1
        if not mask.any():
            untrained.append(document)
            positions[document] = 0
            continue
        needed.append(length)
        if start > 0 and truncate and answer >= start:
            starts[document], positions[document] = start, length - start
            truncated += 1
        elif start > 0:
            positions[document] = 0
            dropped += 1
    untrained = [document for document in untrained if store.lengths_of(document, document + 1)[0]]
    refused = int((store.lengths == 0).sum())
    reasons = {"no_trained_token": len(untrained), "template_refuses": refused, "too_long": dropped}
    numbers = np.array(untrained, dtype=np.int64), np.array(needed, dtype=np.int64)
    return Fit(positions, starts, *numbers, reasons, truncated)
