"""Completions that people called good or bad, one by one: for KTO, and for classifiers of what was flagged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lit_llm.backbone.completions import pack
from lit_llm.data.completion_checks import check_rows, refuse_numbers
from lit_llm.data.counts import moved
from lit_llm.data.data_module import DataModule
from lit_llm.data.dropped_rows import room
from lit_llm.data.label_formats import LabelsOfRankings
from lit_llm.data.loading import Rows, shuffled
from lit_llm.data.options import LabelledAnswersOptions
from lit_llm.data.prepared import Prepared, judged_by, records_hash, splits_hash, tests_of
from lit_llm.data.reading import Records
from lit_llm.data.samples import Decode, Part, answered
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import NothingToLearn, UserError
from lit_llm.records import Labelled, LabelledBatch, TokenRow
from lit_llm.runtime.counted import counted
from lit_llm.text.tokenizer import Tokenizer


class Judged(NamedTuple):
    """One labelled completion in tokens."""

    prompt: NDArray[Any]  # (prompt tokens,)
    completion: NDArray[Any]  # (completion tokens,), with its end token
    unrelated: NDArray[Any] | None  # (tokens,): a completion of another prompt, cut where the context ends
    label: bool
    weight: float


@dataclass(frozen=True)
class LabelledRows:
    """Labelled completions as a map-style data set."""

    store: TokenStore  # for each record its prompt and then its completion
    kept: Sequence[int]  # the records that fit
    unrelated: Sequence[int | None]  # for each of ``kept``, the record whose completion is of another prompt
    labels: Sequence[bool]
    weights: Sequence[float]
    max_length: int
    lender: TokenStore | None = None  # where ``unrelated`` is from, if not from ``store``
    device: str = "cpu"  # the type of what reads the batches

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Judged:
        prompt, completion = (self._document(2 * self.kept[index] + k) for k in (0, 1))
        other = self.unrelated[index]
        unrelated = None
        if other is not None:
            unrelated = self._document(2 * other + 1, self.lender)[: self.max_length - len(prompt)]
        return Judged(prompt, completion, unrelated, self.labels[index], self.weights[index])

    def _document(self, number: int, store: TokenStore | None = None) -> NDArray[Any]:
        store = store or self.store
        return store.tokens(number, 0, store.lengths_of(number, number + 1)[0])

    def collate(self, items: Sequence[Judged]) -> LabelledBatch:
        """N labelled completions to a LabelledBatch."""
        whole = [one._replace(prompt=one.prompt.astype(np.int64)) for one in items]
        others = [(one.prompt, one.unrelated.astype(np.int64)) for one in whole if one.unrelated is not None]
        return labelled_batch(
            [(one.prompt, one.completion.astype(np.int64)) for one in whole],
            [one.label for one in items],
            [one.weight for one in items],
            unrelated=others if len(others) == len(items) else None,
            device=self.device,
        )


def labelled_batch(
    rows: Sequence[TokenRow],
    labels: Sequence[bool],
    weights: Sequence[float],
    *,
    unrelated: Sequence[TokenRow] | None = None,
    device: str = "cpu",
) -> LabelledBatch:
    """N completions with a label each, packed and checked.

    Args:
        rows: N prompts with a completion each.
        labels, weights: N.
        unrelated: the same prompts, each with a completion of another prompt.
        device: the type of what will read them ("cpu", "cuda").

    Raises UserError naming the completion of the batch and what would be right.
    """
    good, every = torch.as_tensor(labels), torch.as_tensor(weights, dtype=torch.float32)
    if good.dtype != torch.bool:
        raise UserError(f"labels: {good.dtype}; true (good) or false (bad) is needed")
    for some in (rows, unrelated or ()):
        check_rows(some, "labels")
    refuse_numbers(every, "labels: completion", "weight")
    return LabelledBatch(
        pack(rows, device),
        good,
        every,
        good.nonzero().flatten(),
        (~good).nonzero().flatten(),
        None if unrelated is None else pack(unrelated, device),
    )


class LabelledAnswers(DataModule):
    """Batches of completions with a label each.

    A prompt that alone fills ``max_length`` is an error, or skipped and counted with ``on_error=skip``.
    With each prompt comes a completion of another prompt, the same one in every epoch: what KTO measures its KL on. For
    a stage that does not read them none is packed.
    Options: ``LabelledAnswersOptions``.
    """

    Options: ClassVar[type[LabelledAnswersOptions]] = LabelledAnswersOptions
    batch_type = LabelledBatch
    options: LabelledAnswersOptions

    def __init__(self, options: LabelledAnswersOptions, *, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer=tokenizer)
        self.flag_kinds = None if options.flag_kinds is None else sorted(options.flag_kinds)
        self._needed: list[int] = []  # tokens of each record's prompt and completion

    def training_weights(self) -> tuple[float, float]:
        """The sums of the weights of the good and of the bad completions that are trained."""
        rows: LabelledRows = self.prepared.train  # type: ignore[assignment]
        good = sum(weight for label, weight in zip(rows.labels, rows.weights, strict=True) if label)
        return good, sum(rows.weights) - good

    def _parameters(self) -> dict[str, Any]:
        values = {name: getattr(self.options, name) for name in ("label", "min_severity", "max_length")}
        return values | {"flag_kinds": self.flag_kinds}

    def _prepare(self) -> Prepared:
        self._check_template()
        self._needed = []
        options = self.options
        rule = LabelsOfRankings(options.label, self.flag_kinds, options.min_severity)
        records = self._read(options.path, "labels", None if options.format and "." in options.format else rule)
        reasons = {"prompt_too_long": 0, "too_long": 0, "template_refuses": 0, "no_weight": 0}
        records = records.that_count(lambda one: one.weight, reasons)
        train = self._rows(records["train"], "train", reasons)
        validation = self._rows(records["validation"], "validation", reasons)
        if validation.kept and set(validation.unrelated) == {None}:  # of one prompt: another's is borrowed
            validation = self._borrowing(validation, train)
        splits = dict(records.splits)
        for name, tests in records.splits.items():
            if name.startswith("test"):
                splits[name] = [tests[index] for index in self._fitted(tests, name, reasons)[1]]
        self._end_at_bad(records)
        if len(set(train.labels)) < 2:
            refused = self._first_bad.get("template_refuses")
            why = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
            long = reasons["too_long"] or reasons["prompt_too_long"]
            longer = f"; data.max_length is {options.max_length}: {room('max_length', self._needed)}" if long else ""
            kind = _of_one_kind(train.labels, self.options.label)
            raise NothingToLearn(
                f"data.path={self.options.path}: {kind} to train on ({records.counts}"
                f"{f'; of these {why}' if why else ''}); both kinds are needed"
                f"{longer}"
                f"{f'; the first: {refused}' if refused else ''}"
            )
        records = Records(splits, records.counts)
        shown = {"good": sum(train.labels), "bad": len(train) - sum(train.labels)}
        return Prepared(
            train=train,
            order=shuffled(len(train), options.seed),
            validation={options.name: validation},
            heldout=tuple(tests_of(records, options.name, "flags" if options.label == "flagged" else "labels")),
            counts={**moved(records.counts.as_dict(), reasons), **shown, **judged_by(records)},
            content=splits_hash(records),
            train_tokens=sum(len(train[index].completion) for index in range(len(train))),
            remedies=dict.fromkeys(("too_long", "prompt_too_long"), room("max_length", self._needed)),
        )

    @property
    def with_unrelated(self) -> bool:
        """Whether what reads the batches wants completions of other prompts: a stage whose ``reads_unrelated`` is False
        does not."""
        stage = None if self.trainer is None else self.trainer.lightning_module
        return bool(getattr(stage, "reads_unrelated", True))

    def placed(self, rows: Rows) -> Rows:
        changes: dict[str, Any] = {"device": self.device_type}
        if not self.with_unrelated:
            changes["unrelated"] = (None,) * len(rows)
        return replace(rows, **changes)  # type: ignore[type-var]

    def _rows(self, records: list[Labelled], split: str, reasons: dict[str, int]) -> LabelledRows:
        """The records that fit; what does not is counted in ``reasons``."""
        store, kept = self._fitted(records, split, reasons)
        self._count_tokens(records, store, [2] * len(records))
        return LabelledRows(
            store,
            kept,
            unrelated([records[index].prompt for index in kept], kept, self.options.seed),
            [records[index].label for index in kept],
            [records[index].weight for index in kept],
            self.options.max_length,
        )

    def _borrowing(self, rows: LabelledRows, train: LabelledRows) -> LabelledRows:
        """Rows whose completions of another prompt are from the training split, which has none of theirs."""
        if not train.kept:
            return rows
        chosen = np.random.default_rng(self.options.seed).choice(train.kept, len(rows)).tolist()
        return replace(rows, unrelated=chosen, lender=train.store)

    def _fitted(self, records: list[Labelled], split: str, reasons: dict[str, int]) -> tuple[TokenStore, list[int]]:
        """Tokens, and the numbers of the records that fit."""
        store = self._tokenized(records, f"tokenize {self.options.name} {split}")
        longest = self.options.max_length
        kept: list[int] = []
        for index, record in enumerate(records):
            prompt, completion = store.lengths_of(2 * index, 2 * index + 2)
            if not prompt or not completion:
                self._refused(record, self._all_ids)
                reasons["template_refuses"] += 1
                continue
            self._needed.append(prompt + completion)
            if prompt >= longest:
                self._left_out(record, "prompt_too_long", partial(_too_long, prompt, longest))
                reasons["prompt_too_long"] += 1
            elif prompt + completion > longest:
                reasons["too_long"] += 1
            else:
                kept.append(index)
        return store, kept

    def _sample(self, rows: Any, row: int, decode: Decode) -> Iterator[Part]:
        one = rows[row]
        yield from answered(one.prompt, [("good" if one.label else "bad", one.completion)], decode)

    def _tokenized(self, records: list[Labelled], description: str) -> TokenStore:
        """For each record its prompt and then its completion, as documents of their own."""
        self.tokenizer.chat.check(self.tokenizer)

        def encode(batch: Sequence[tuple[Labelled, bool]]) -> list[Encoded]:
            return [(self._encoded_or([], partial(self._ids, one, part)), None) for one, part in batch]

        return cached_tokens(
            [(record, part) for record in records for part in (False, True)],
            encode,
            key=content_hash(["labels", self.tokenizer.fingerprint(), records_hash(records)]),
            cache_dir=self.options.cache_dir,
            size_of=lambda part: len(part[0].completion) + 100,
            description=description,
        )

    def _ids(self, record: Labelled, completion: bool) -> list[int]:
        """Of the prompt, or of the completion with its end token."""
        if completion:
            return self.tokenizer.encode_completion(record.completion)
        return self.tokenizer.encode_prompt(record.prompt)

    def _all_ids(self, record: Labelled) -> list[list[int]]:
        return [self._ids(record, completion) for completion in (False, True)]


def unrelated(prompts: Sequence[Any], numbers: Sequence[int], seed: int) -> list[int | None]:
    """For each record the number of one with another prompt: the next such in a shuffled order. None: there is none."""
    order = np.random.default_rng(seed).permutation(len(prompts)).tolist()
    found: list[int | None] = [None] * len(prompts)
    following: int | None = None  # walked backwards twice around, so that every place knows what comes after its run
    for place in reversed(range(2 * len(order))):
        here, after = order[place % len(order)], order[(place + 1) % len(order)]
        if prompts[here] != prompts[after]:
            following = after
        found[here] = None if following is None else numbers[following]
    return found


def _too_long(prompt: int, longest: int) -> str:
    return f"the prompt has {counted(prompt, 'token')} and the context {longest}; raise data.max_length"


def _of_one_kind(labels: Sequence[bool], label: str) -> str:
    kinds = ("completions that nobody flagged", "flagged completions")
    kinds = kinds if label == "flagged" else ("bad completions", "good completions")
    return f"only {kinds[labels[0]]}" if labels else "nothing"
