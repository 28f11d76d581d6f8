"""Prompts for a policy to answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from lit_llm.data.counts import moved
from lit_llm.data.data_module import DataModule
from lit_llm.data.dropped_rows import room
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.not_usable import of_key
from lit_llm.data.options import PromptsOptions
from lit_llm.data.prepared import Prepared, records_hash, splits_hash, tests_of
from lit_llm.data.raw_text import RawText
from lit_llm.data.reading import Records
from lit_llm.data.samples import Decode, Part, answered
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Prompt, PromptBatch
from lit_llm.runtime.counted import counted
from lit_llm.text.tokenizer import Tokenizer


class PromptRows:
    """Prompts as a map-style data set of (tokens, number in ``Prompts.prompts``)."""

    def __init__(self, store: TokenStore, kept: Sequence[int], first: int, pad_id: int) -> None:
        self.store, self.kept, self.first, self.pad_id = store, kept, first, pad_id

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        document = self.kept[row]
        return self.store.tokens(document, 0, self.store.lengths_of(document, document + 1)[0]), self.first + row

    def collate(self, items: Sequence[tuple[Any, int]]) -> PromptBatch:
        """B prompts to a PromptBatch, right-padded to the longest."""
        lengths = torch.tensor([len(ids) for ids, _ in items])
        input_ids = torch.full((len(items), int(lengths.max())), self.pad_id)
        for row, (ids, _) in enumerate(items):
            input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        return PromptBatch(input_ids, lengths, torch.tensor([index for _, index in items]))


class Prompts(DataModule):
    """Batches of prompts, each ending where the assistant begins to write.

    Options: ``PromptsOptions``.
    """

    Options: ClassVar[type[PromptsOptions]] = PromptsOptions
    batch_type = PromptBatch
    options: PromptsOptions

    def __init__(self, options: PromptsOptions | None = None, *, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer=tokenizer)
        text = self.options.pretraining_text()
        self._text = None if text is None else RawText(text, tokenizer=tokenizer)
        self._longest = 0
        self._prompts: list[Prompt] = []
        self._needed: list[int] = []  # tokens of each prompt
        self._reasons: Counter[str] = Counter()

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts by their number in ``PromptBatch.indices``: those trained on, and then those of validation."""
        _ = self.prepared
        return self._prompts

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that is trained on or validated."""
        _ = self.prepared
        return self._longest

    def predict_dataloader(self) -> list[DataLoader[Prompt]]:
        """A loader for each held-out set, of lists of its prompts in its order."""
        sets = [list(one.items) for one in self.heldout() if one.items]
        return [DataLoader(items, batch_size=self.options.rows_at_once, collate_fn=list) for items in sets]  # type: ignore[arg-type]

    def ptx_loader(self) -> ResumableLoader | None:
        """Batches of pretraining text (TokenBatch), which remember their place; None without ``ptx_path``."""
        return None if self._text is None else self._text.train_dataloader()

    def files(self) -> list[str]:
        """Every file that was read, the pretraining text's too."""
        more = [] if self._text is None else self._text.files()
        return list(dict.fromkeys([*super().files(), *more]))

    def _parameters(self) -> dict[str, Any]:
        return {"max_prompt_length": self.options.max_prompt_length}

    def _prepare(self) -> Prepared:
        if self._text is not None:
            with of_key("data.ptx_path"):
                self._text.setup()  # its mistakes are told before anything is sampled
            self._overview.of_key("data.ptx_path").__iadd__(self._text.overview())
        self._check_template()
        records = self._read(self.options.path, "prompts")
        self._prompts, self._longest, self._needed, self._reasons = [], 0, [], Counter()
        train = self._rows(records["train"], "train")
        validation = self._rows(records["validation"], "validation")
        tested = self._tests_that_fit(records)
        self._end_at_bad(records)
        records = tested
        if len(train) == 0:
            refused = self._first_bad.get("template_refuses")
            long = self._reasons["prompt_too_long"]
            longer = f"; {room('max_prompt_length', self._needed)}" if long else ""
            raise UserError(
                f"data.path={self.options.path}: no prompt to train on (skipped: {long} longer than "
                f"data.max_prompt_length={self.options.max_prompt_length})"
                f"{longer}"
                f"{f'; the first that the template refuses: {refused}' if refused else ''}"
            )
        return Prepared(
            train=train,
            order=shuffled(len(train), self.options.seed),
            validation={self.options.name: validation},
            heldout=tuple(tests_of(records, self.options.name, "prompts")),
            counts=moved(records.counts.as_dict(), self._reasons),
            content=content_hash([splits_hash(records), _tags_hash(records)]),
            train_tokens=0,  # nothing is imitated: what is trained is what the policy answers
            remedies={"prompt_too_long": room("max_prompt_length", self._needed)},
        )

    def _tests_that_fit(self, records: Records) -> Records:
        """The records less the test prompts that are too long or refused by the template."""
        splits = dict(records.splits)
        for name, prompts in records.splits.items():
            if name.startswith("test"):
                splits[name] = [prompts[index] for index in self._that_fit(prompts, name)[1]]
        return Records(splits, records.counts)

    def _rows(self, prompts: list[Prompt], split: str) -> PromptRows:
        store, kept = self._that_fit(prompts, split)
        self._count_tokens(prompts, store)
        rows = PromptRows(store, kept, len(self._prompts), self.tokenizer.pad_id)
        self._prompts += [prompts[index] for index in kept]
        self._longest = max(self._longest, int(store.lengths[kept].max()) if kept else 0)
        return rows

    def _that_fit(self, prompts: list[Prompt], split: str) -> tuple[TokenStore, list[int]]:
        """Their tokens, and the numbers of those that the template takes and that are not too long."""
        store = self._tokenized(prompts, f"tokenize {self.options.name} {split}")
        refused = np.flatnonzero(store.lengths == 0)
        for number in refused.tolist():
            self._refused(prompts[number], self._ids)
        most = self.options.max_prompt_length
        long = np.flatnonzero(store.lengths > most)
        for number in long.tolist():
            size = int(store.lengths[number])
            self._left_out(prompts[number], "prompt_too_long", partial(_too_long, size, most))
        self._reasons += Counter({"template_refuses": int(refused.size), "prompt_too_long": int(long.size)})
        self._needed += store.lengths[store.lengths > 0].tolist()
        return store, np.flatnonzero((store.lengths > 0) & (store.lengths <= most)).tolist()

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode_prompt(prompt.messages)

    def _sample(self, rows: Any, row: int, decode: Decode) -> Iterator[Part]:
        yield from answered(rows[row][0], (), decode)

    def _tokenized(self, prompts: list[Prompt], description: str) -> TokenStore:
        self.tokenizer.chat.check(self.tokenizer)

        def encode(batch: Sequence[Prompt]) -> list[Encoded]:
            return [(self._encoded_or([], partial(self._ids, prompt)), None) for prompt in batch]

        return cached_tokens(
            prompts,
            encode,
            key=content_hash(["prompts", self.tokenizer.fingerprint(), records_hash(prompts)]),
            cache_dir=self.options.cache_dir,
            size_of=lambda prompt: sum(len(message.content) for message in prompt.messages),
            description=description,
        )


def _too_long(size: int, most: int) -> str:
    return f"the prompt has {counted(size, 'token')}, more than data.max_prompt_length={most}; raise it"


def _tags_hash(records: Records) -> str:
    """What rewards verify by counts too: another answer to the same problem is other data."""
    tags = [[split, [prompt.tags for prompt in records[split]]] for split in sorted(records.splits)]
    return content_hash([json.dumps(tags, sort_keys=True)])
