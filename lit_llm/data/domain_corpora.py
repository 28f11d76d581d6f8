"""Domain corpora for continued pretraining: new text, and a share of the old so that it is not forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lit_llm.data.filters import without_overlap
from lit_llm.data.options import DomainCorporaOptions, TextOptions
from lit_llm.data.raw_text import RawText, TextSource, apportioned, weighted_sources
from lit_llm.data.reading import read_records
from lit_llm.data.shards.sample import sample
from lit_llm.data.shards.size import is_streamed


class DomainCorpora(RawText):
    """Rows of a domain, and among them a share of rows from the general corpus (replay: Ibrahim et al. 2024).

    An epoch goes once through the domain. Which general rows are replayed goes on from epoch to epoch through all of
    the general corpus. The general corpus is validated and held out even where nothing of it is replayed, so that
    forgetting is a number.

    Options: ``DomainCorporaOptions``.
    """

    Options: ClassVar[type[DomainCorporaOptions]] = DomainCorporaOptions
    options: DomainCorporaOptions

    def sources(self) -> list[TextSource]:
        options = self.options
        domain = weighted_sources(options.path, options.name)
        if options.replay_path is None:
            return domain
        general = weighted_sources(options.replay_path, options.replay_name)
        replayed = [replace(source, replayed=True) for source in general]
        names = {source.name for source in domain}
        return domain + [replace(s, name=f"replayed_{s.name}") if s.name in names else s for s in replayed]

    @classmethod
    def tokenizer_texts(cls, options: TextOptions | None = None) -> Iterator[str]:
        """The domain's training texts, without those that the general corpus holds out."""
        options = cls.Options() if options is None else options
        assert isinstance(options, DomainCorporaOptions)
        general = [] if options.replay_path is None else weighted_sources(options.replay_path, "")
        sources = [*weighted_sources(options.path, ""), *general]
        streamed = [is_streamed(options, source.path) for source in sources]
        reads = {
            number: read_records(source.path, "texts", options)
            for number, (source, large) in enumerate(zip(sources, streamed, strict=True))
            if not large  # what a large corpus holds out by hash, the same text's hash holds out of the domain
        }
        heldout = [d for r in reads.values() for split, items in r.splits.items() if split != "train" for d in items]
        for number, source in enumerate(sources[: len(sources) - len(general)]):
            if streamed[number]:
                yield from sample(options, source.path)
                continue
            kept: list[Any] = without_overlap(reads[number]["train"], heldout)[0]
            yield from (document.text for document in kept)

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "replay_ratio": self.options.replay_ratio}

    def _trains_on(self, source: TextSource) -> bool:
        return not source.replayed or self.options.replay_ratio > 0

    def _rows_per_epoch(self, sources: Sequence[TextSource], sizes: Sequence[int]) -> list[int]:
        domain = [size if not source.replayed else 0 for source, size in zip(sources, sizes, strict=True)]
        general = [size if source.replayed else 0 for source, size in zip(sources, sizes, strict=True)]
        replayed_rows = round(sum(domain) * self.options.replay_ratio / (1 - self.options.replay_ratio))
        shares = [0] * len(sources)
        for group, total in ((domain, sum(domain)), (general, replayed_rows)):
            weights = [
                0.0 if not size else size if source.weight is None else source.weight
                for source, size in zip(sources, group, strict=True)
            ]
            if any(weights):
                shares = [a + b for a, b in zip(shares, apportioned(total, weights), strict=True)]
        return shares
