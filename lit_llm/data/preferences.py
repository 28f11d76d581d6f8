"""Preferences: K completions of a prompt, ranked, for reward models and the DPO family.

The completions of a prompt stay together: a batch is counted in prompts, and each completion is a row of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

from lit_llm.data.attacked import fits_in, with_attacks
from lit_llm.data.comparison_choice import ComparisonChoice, annotators_of
from lit_llm.data.counts import moved
from lit_llm.data.data_module import DataModule
from lit_llm.data.dropped_rows import room
from lit_llm.data.loading import Order, Rows, grouped, shuffled
from lit_llm.data.options import PreferencesOptions
from lit_llm.data.prepared import Prepared, judged_by, records_hash, splits_hash, tests_of
from lit_llm.data.ranking_rows import Judged, RankingRows
from lit_llm.data.reading import Records
from lit_llm.data.samples import Decode, Part, answered
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Comparison, RankingBatch
from lit_llm.runtime.counted import counted
from lit_llm.text.tokenizer import Tokenizer


class Preferences(DataModule):
    """Batches of ranked completions.

    A prompt that alone fills ``max_length`` is an error, or skipped and counted with ``on_error=skip``. The same holds
    for the test split, where nothing is truncated.
    Options: ``PreferencesOptions``.
    """

    Options: ClassVar[type[PreferencesOptions]] = PreferencesOptions
    batch_type = RankingBatch
    options: PreferencesOptions

    def __init__(self, options: PreferencesOptions, *, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer=tokenizer)
        self.choice = ComparisonChoice(options.half, dict(options.annotator_weights or {}))
        self._annotators: tuple[str, ...] = ()
        self._needed: list[int] = []  # tokens of each comparison's prompt and longest completion
        self._trained_by: Counter[str] = Counter()

    def _parameters(self) -> dict[str, Any]:
        chosen = self.choice.parameters() | ({"attacks": self.options.attacks} if self.options.attacks else {})
        chosen |= {"by_prompt": True} if self.options.by_prompt else {}
        return {"max_length": self.options.max_length, "overlong": self.options.overlong, **chosen}

    @property
    def annotators(self) -> tuple[str, ...]:
        """Who ranked, in the order that ``RankingBatch.annotators`` counts; "" stands for rows that name nobody."""
        _ = self.prepared
        return self._annotators

    @property
    def training_comparisons_by(self) -> Mapping[str, int]:
        """How many comparisons of an epoch are of each annotator."""
        _ = self.prepared
        return dict(self._trained_by)

    def training_comparisons(self) -> list[Comparison]:
        """What people ranked of what is trained, read again, each with the weight that it has in training.

        The reward model's validation trains its floor on it. Attacks (``attacks``) are not in it: nobody ranked them.
        """
        records = self.choice.of(self._read(self.options.path, "comparisons"), {"other_half": 0, "no_weight": 0})
        return [replace(one, weight=self.choice.weight(one)) for one in records["train"]]

    def _prepare(self) -> Prepared:
        self._check_template()
        self._needed = []
        reasons = {"prompt_too_long": 0, "too_long": 0, "truncated": 0, "other_half": 0, "no_weight": 0}
        reasons |= {"template_refuses": 0}
        records = self.choice.of(self._read(self.options.path, "comparisons"), reasons)
        self._annotators = annotators_of(records)
        trained = with_attacks(records["train"], self.options.attacks, fits_in(self.options.max_length, self.tokenizer))
        train = self._rows(trained, "train", reasons)
        validation = self._rows(records["validation"], "validation", reasons)
        tested = self._tests_that_fit(records, reasons)
        self._end_at_bad(records)
        records = tested
        truncated = reasons.pop("truncated")
        needed = room("max_length", self._needed)
        if len(train) == 0:
            why = ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
            refused = self._first_bad.get("template_refuses")
            longer = f"data.max_length is {self.options.max_length}: {needed}; data.overlong=truncate cuts prompts"
            longer = f"; {longer}" if reasons["too_long"] or reasons["prompt_too_long"] else ""
            raise UserError(
                f"data.path={self.options.path}: no comparison to train on (skipped: {why or 'none was read'})"
                f"{f'; the first: {refused}' if refused else longer}"
            )
        return Prepared(
            train=train,
            order=self._order(train),
            validation={self.options.name: validation},
            heldout=tuple(tests_of(records, self.options.name, "rankings")),
            counts={**moved(records.counts.as_dict(), reasons), "truncated": truncated} | judged_by(records),
            content=splits_hash(records),
            train_tokens=sum(len(c) for index in range(len(train)) for c in train[index].completions),
            remedies={
                "too_long": f"{needed}; data.overlong=truncate cuts prompts from the left",
                "prompt_too_long": needed,
                "truncated": f"{needed} whole",
            },
        )

    def _order(self, train: RankingRows) -> Order:
        if not self.options.by_prompt:
            return shuffled(len(train), self.options.seed)
        return grouped([train[index].prompt.tobytes() for index in range(len(train))], self.options.seed)

    def _tests_that_fit(self, records: Records, reasons: dict[str, int]) -> Records:
        """The records less the tests that fit as little as what is trained; those are counted in ``reasons``.

        A test keeps its whole prompt, so what would have to be truncated is left out of it.
        """
        splits = dict(records.splits)
        for name, comparisons in records.splits.items():
            if name.startswith("test"):
                _, _, kept, cuts = self._fitted(comparisons, name, reasons)
                splits[name] = [comparisons[index] for index, cut in zip(kept, cuts, strict=True) if not cut]
                cut = sum(cut > 0 for cut in cuts)
                reasons["truncated"] -= cut
                reasons["too_long"] += cut
        return Records(splits, records.counts)

    def placed(self, rows: Rows) -> Rows:
        return replace(rows, device=self.device_type)  # type: ignore[type-var]

    def _rows(self, comparisons: list[Comparison], split: str, reasons: dict[str, int]) -> RankingRows:
        """The comparisons that fit; what does not is counted in ``reasons``."""
        store, firsts, kept, cuts = self._fitted(comparisons, split, reasons)
        self._count_tokens(comparisons, store, [1 + len(one.completions) for one in comparisons])
        number = {who: index for index, who in enumerate(self._annotators)}
        judged = [
            Judged(one.ranks, self.choice.weight(one), one.margin, number[one.annotator], one.attacked)
            for one in (comparisons[i] for i in kept)
        ]
        if split == "train":
            self._trained_by = Counter(comparisons[i].annotator for i in kept)
        return RankingRows(store, judged, [firsts[i] for i in kept], cuts)

    def _fitted(
        self, comparisons: list[Comparison], split: str, reasons: dict[str, int]
    ) -> tuple[TokenStore, list[int], list[int], list[int]]:
        """Tokens, where each comparison begins in them, the numbers of those that fit, and what each is cut by."""
        store = self._tokenized(comparisons, f"tokenize {self.options.name} {split}")
        firsts = [0, *accumulate(1 + len(c.completions) for c in comparisons)]
        kept: list[int] = []
        cuts: list[int] = []
        for index, comparison in enumerate(comparisons):
            lengths = store.lengths_of(firsts[index], firsts[index + 1])
            prompt, longest = lengths[0], max(lengths[1:])
            if not min(lengths):
                self._refused(comparison, self._all_ids)
                reasons["template_refuses"] += 1
                continue
            self._needed.append(prompt + longest)
            cut = max(0, prompt + longest - self.options.max_length)
            if prompt >= self.options.max_length and self.options.overlong == "drop":
                self._left_out(comparison, "prompt_too_long", partial(self._too_long, prompt))
                reasons["prompt_too_long"] += 1
            elif cut and (self.options.overlong == "drop" or cut >= prompt):
                reasons["too_long"] += 1
            else:
                reasons["truncated"] += cut > 0
                kept.append(index)
                cuts.append(cut)
        return store, firsts, kept, cuts

    def _too_long(self, prompt: int) -> str:
        return (
            f"the prompt has {counted(prompt, 'token')} and the context {self.options.max_length}; "
            "raise data.max_length, or set data.overlong=truncate"
        )

    def _sample(self, rows: Any, row: int, decode: Decode) -> Iterator[Part]:
        group = rows[row]
        said = [f"rank {rank}" for rank in group.judged.ranks]
        if group.judged.attacked:
            said[-1] = "an attack, which nobody ranked"
        yield from answered(group.prompt, zip(said, group.completions, strict=True), decode)

    def _tokenized(self, comparisons: list[Comparison], description: str) -> TokenStore:
        """For each comparison its prompt and then its completions, as documents of their own."""
        self.tokenizer.chat.check(self.tokenizer)
        parts = [(c, part) for c in comparisons for part in (None, *c.completions)]

        def encode(batch: Sequence[tuple[Comparison, str | None]]) -> list[Encoded]:
            return [(self._encoded_or([], partial(self._ids, one, part)), None) for one, part in batch]

        return cached_tokens(
            parts,
            encode,
            key=content_hash(["comparisons", self.tokenizer.fingerprint(), records_hash(comparisons)]),
            cache_dir=self.options.cache_dir,
            size_of=lambda part: len(part[1] or "") + 100,
            description=description,
        )

    def _ids(self, comparison: Comparison, part: str | None) -> list[int]:
        """Of the prompt (None), or of a completion with its end token."""
        if part is None:
            return self.tokenizer.encode_prompt(comparison.prompt)
        return self.tokenizer.encode_completion(part)

    def _all_ids(self, comparison: Comparison) -> list[list[int]]:
        return [self._ids(comparison, part) for part in (None, *comparison.completions)]
