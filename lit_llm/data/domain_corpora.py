"""Domain corpora for continued pretraining: new text, and a share of the old so that it is not forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lit_llm.data.data_module import DataPath, plain_name
from lit_llm.data.raw_text import RawText, TextSource, apportioned, weighted_sources
from lit_llm.errors import UserError
from lit_llm.text.tokenizer import Tokenizer


class DomainCorpora(RawText):
    """Rows of a domain, and among them a share of rows from the general corpus (replay: Ibrahim et al. 2024).

    An epoch goes once through the domain. Which general rows are replayed goes on from epoch to epoch through all of
    the general corpus. The general corpus is validated and held out even where nothing of it is replayed, so that
    forgetting is a number.

    Args:
        path: the domain: one corpus, or {path: weight} as in ``RawText``.
        replay_path: the general corpus; None for none, without its validation.
        replay_ratio: share of an epoch's rows, 0 (none) to below 1.
        replay_name: the general corpus' name as a source.

    Other arguments: ``RawText``, ``DataModule``.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        path: DataPath = "installed/domain",
        replay_path: DataPath | None = "installed/raw_text",
        replay_ratio: float = 0.2,
        max_length: int = 256,
        micro_batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        format: str | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        max_error_rate: float = 0.2,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        cache_dir: str = "outputs/cache",
        name: str = "domain",
        replay_name: str = "general",
        accept_changed_data: bool = False,
        ignore_keys: Sequence[str] = (),
        clean: bool = True,
        encoding: str = "utf-8",
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            path=path,
            max_length=max_length,
            micro_batch_size=micro_batch_size,
            num_workers=num_workers,
            seed=seed,
            format=format,
            on_error=on_error,
            max_error_rate=max_error_rate,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            cache_dir=cache_dir,
            name=name,
            accept_changed_data=accept_changed_data,
            ignore_keys=ignore_keys,
            clean=clean,
            encoding=encoding,
        )
        if not 0 <= replay_ratio < 1:
            raise UserError(f"data.replay_ratio={replay_ratio}: a share of the rows, from 0 to below 1")
        plain_name("replay_name", replay_name)
        if replay_path is None and replay_ratio:
            raise UserError(f"data.replay_ratio={replay_ratio}: set data.replay_path, or a ratio of 0")
        self.replay_path, self.replay_ratio, self.replay_name = replay_path, replay_ratio, replay_name

    def sources(self) -> list[TextSource]:
        domain = weighted_sources(self.path, self.name)
        if self.replay_path is None:
            return domain
        replayed = [replace(source, replayed=True) for source in weighted_sources(self.replay_path, self.replay_name)]
        names = {source.name for source in domain}
        return domain + [replace(s, name=f"replayed_{s.name}") if s.name in names else s for s in replayed]

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "replay_ratio": self.replay_ratio}

    def _trains_on(self, source: TextSource) -> bool:
        return not source.replayed or self.replay_ratio > 0

    def _rows_per_epoch(self, sources: Sequence[TextSource], sizes: Sequence[int]) -> list[int]:
        domain = [size if not source.replayed else 0 for source, size in zip(sources, sizes, strict=True)]
        general = [size if source.replayed else 0 for source, size in zip(sources, sizes, strict=True)]
        replayed_rows = round(sum(domain) * self.replay_ratio / (1 - self.replay_ratio))
        shares = [0] * len(sources)
        for group, total in ((domain, sum(domain)), (general, replayed_rows)):
            weights = [
                0.0 if not size else size if source.weight is None else source.weight
                for source, size in zip(sources, group, strict=True)
            ]
            if any(weights):
                shares = [a + b for a, b in zip(shares, apportioned(total, weights), strict=True)]
        return shares
