"""Prompts for a policy to answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from lit_llm.data.data_module import (
    DataModule,
    DataPath,
    Prepared,
    at_least,
    moved,
    records_hash,
    room,
    splits_hash,
    tests_of,
)
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.raw_text import RawText
from lit_llm.data.reading import Records
from lit_llm.data.token_cache import Encoded, TokenStore, cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.records import Prompt, PromptBatch
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

    Args:
        path: prompts, problems with their answers (which become tags, for rewards), or examples or comparisons whose
            answers are left out (``formats.py``).
        max_prompt_length: longest prompt in tokens; a longer one is an error, or skipped and counted with
            ``on_error=skip``.
        micro_batch_size: prompts per process and step.
        ptx_path: pretraining text to mix into PPO, as ``RawText``'s path; None: none. Its held-out part stays held out.
        ptx_max_length, ptx_micro_batch_size: positions a row of it, and rows of it per process and update.

    Other arguments: ``DataModule``.
    """

    batch_type = PromptBatch

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        path: DataPath = "installed/prompts",
        max_prompt_length: int = 192,
        micro_batch_size: int = 16,
        ptx_path: DataPath | None = None,
        ptx_max_length: int = 256,
        ptx_micro_batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        format: str | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        max_error_rate: float = 0.2,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        cache_dir: str = "outputs/cache",
        name: str = "prompts",
        accept_changed_data: bool = False,
        ignore_keys: Sequence[str] = (),
        clean: bool = True,
        encoding: str = "utf-8",
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            name=name,
            format=format,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            seed=seed,
            on_error=on_error,
            max_error_rate=max_error_rate,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            cache_dir=cache_dir,
            accept_changed_data=accept_changed_data,
            ignore_keys=ignore_keys,
            clean=clean,
            encoding=encoding,
        )
        at_least("max_prompt_length", max_prompt_length, 1)
        at_least("ptx_micro_batch_size", ptx_micro_batch_size, 1)
        at_least("ptx_max_length", ptx_max_length, 2)
        self.path, self.max_prompt_length, self.ptx_path = path, max_prompt_length, ptx_path
        self.ptx_max_length, self.ptx_micro_batch_size = ptx_max_length, ptx_micro_batch_size
        self._longest = 0
        self._text: RawText | None = None
        if ptx_path is not None:
            self._text = RawText(
                tokenizer=tokenizer,
                path=ptx_path,
                max_length=ptx_max_length,
                micro_batch_size=ptx_micro_batch_size,
                num_workers=num_workers,
                seed=seed,
                on_error=on_error,
                max_error_rate=max_error_rate,
                validation_fraction=validation_fraction,
                test_fraction=test_fraction,
                cache_dir=cache_dir,
                accept_changed_data=accept_changed_data,
                ignore_keys=ignore_keys,
                clean=clean,
                encoding=encoding,
            )
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
        return [DataLoader(items, batch_size=self.micro_batch_size, collate_fn=list) for items in sets]  # type: ignore[arg-type]

    def ptx_loader(self) -> ResumableLoader | None:
        """Batches of pretraining text (TokenBatch), which remember their place; None without ``ptx_path``."""
        return None if self._text is None else self._text.train_dataloader()

    def files(self) -> list[str]:
        """Every file that was read, the pretraining text's too."""
        more = [] if self._text is None else self._text.files()
        return list(dict.fromkeys([*super().files(), *more]))

    def _parameters(self) -> dict[str, Any]:
        return {"max_prompt_length": self.max_prompt_length}

    def _prepare(self) -> Prepared:
        if self._text is not None:
            self._text.setup()  # its mistakes are told before anything is sampled
        self._check_template()
        records = self._read(self.path, "prompts")
        self._prompts, self._longest, self._needed, self._reasons = [], 0, [], Counter()
        train = self._rows(records["train"], "train")
        validation = self._rows(records["validation"], "validation")
        records = self._tests_that_fit(records)
        if len(train) == 0:
            refused = self._first_bad.get("template_refuses")
            long = self._reasons["prompt_too_long"]
            raise UserError(
                f"data.path={self.path}: no prompt to train on (skipped: {long} longer than "
                f"data.max_prompt_length={self.max_prompt_length} tokens)"
                f"{f'; the first that the template refuses: {refused}' if refused else ''}"
            )
        return Prepared(
            train=train,
            order=shuffled(len(train), self.seed),
            validation={self.name: validation},
            heldout=tuple(tests_of(records, self.name, "prompts")),
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
        rows = PromptRows(store, kept, len(self._prompts), self.tokenizer.pad_id)
        self._prompts += [prompts[index] for index in kept]
        self._longest = max(self._longest, int(store.lengths[kept].max()) if kept else 0)
        return rows

    def _that_fit(self, prompts: list[Prompt], split: str) -> tuple[TokenStore, list[int]]:
        """Their tokens, and the numbers of those that the template takes and that are not too long."""
        store = self._tokenized(prompts, f"tokenize {self.name} {split}")
        refused = np.flatnonzero(store.lengths == 0)
        if self.on_error == "stop" and refused.size:
            first = prompts[int(refused[0])]
            raise self._refusal(first, partial(self._ids, first))
        long = np.flatnonzero(store.lengths > self.max_prompt_length)
        if self.on_error == "stop" and long.size:
            worst = int(long[0])
            raise UserError(
                f"{prompts[worst].source}: the prompt has {store.lengths[worst]} tokens, more than "
                f"data.max_prompt_length={self.max_prompt_length}; raise it, or set data.on_error=skip to count such "
                "rows and go on"
            )
        self._reasons += Counter({"template_refuses": int(refused.size), "prompt_too_long": int(long.size)})
        self._needed += store.lengths[store.lengths > 0].tolist()
        return store, np.flatnonzero((store.lengths > 0) & (store.lengths <= self.max_prompt_length)).tolist()

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode_prompt(prompt.messages)

    def _tokenized(self, prompts: list[Prompt], description: str) -> TokenStore:
        self.tokenizer.chat.check(self.tokenizer)

        def encode(batch: Sequence[Prompt]) -> list[Encoded]:
            return [(self._encoded_or([], prompt, partial(self._ids, prompt)), None) for prompt in batch]

        return cached_tokens(
            prompts,
            encode,
            key=content_hash(["prompts", self.tokenizer.fingerprint(), records_hash(prompts)]),
            cache_dir=self.cache_dir,
            size_of=lambda prompt: sum(len(message.content) for message in prompt.messages),
            description=description,
        )


def _tags_hash(records: Records) -> str:
    """What rewards verify by counts too: another answer to the same problem is other data."""
    tags = [[split, [prompt.tags for prompt in records[split]]] for split in sorted(records.splits)]
    return content_hash([json.dumps(tags, sort_keys=True)])
