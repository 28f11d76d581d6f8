"""Which records are left out though nothing is wrong with their rows: too like others, of poor quality, in another
language, or giving away what is held out. Every one is counted under its reason, and the first is named."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lit_llm.data.filters import Record, content_key, group_key
from lit_llm.data.options import DataOptions
from lit_llm.data.quality import languages, rules
from lit_llm.data.quality.decontamination import LEAST, HeldoutItems
from lit_llm.data.quality.named_sets import named_items
from lit_llm.data.quality.near_duplicates import WORDS, Similar, connected, kept, like_one_of, similar
from lit_llm.data.quality.text_of import all_of, asked_of
from lit_llm.records import Comparison, Document, Labelled
from lit_llm.runtime.atomic_files import NotWritten, write_json
from lit_llm.runtime.code_key import code_key

log = logging.getLogger(__name__)
LEAST_NAMED = 5  # words of an item that data.decontaminate names: it was said that it must not be trained
REASONS = ("near_duplicate", "near_heldout", "decontaminated", "earlier_heldout", "other_language", *rules.REASONS)
REMEDIES = {
    "near_duplicate": "a longer row says nearly the same (data.near_threshold)",
    "near_heldout": "a held-out row says or asks nearly the same (data.near_threshold)",
    "decontaminated": "they hold held-out items (data.decontaminate_words=0 keeps them)",
    "earlier_heldout": "an earlier stage holds them out (data.decontaminate_words=0 keeps them)",
    "other_language": "they are in none of data.languages",
    **dict.fromkeys(rules.REASONS, "they break a rule of data.quality"),
}
CODE = ("lit_llm.data.quality", "lit_llm.data.filters", "lit_llm.records")
"""What decides. Its hash is part of every key of what is remembered: another way to decide makes it anew."""

Dropped = dict[int, str]
"""Numbers of records that are dropped, and for each what a user is told of it."""


@dataclass(frozen=True)
class Screening:
    """What ``DataOptions`` says of it, which explains each field, and where decisions are remembered."""

    deduplicate: Literal["exact", "near", "off"] = "exact"
    near_threshold: float = 0.8
    decontaminate: Sequence[str] = ()
    earlier_heldout: Sequence[str] = ()
    decontaminate_words: int = 13
    decontaminate_share: float = 0.5
    quality: str | Mapping[str, Any] | Sequence[str] | None = None
    languages: Sequence[str] = ()
    cache_dir: str | Path | None = None  # None: nothing is remembered
    encoding: str = "utf-8"
    columns: Mapping[str, str] | str | None = None  # of the rows in ``decontaminate`` too

    @property
    def near(self) -> bool:
        return self.deduplicate == "near"

    @cached_property
    def _limits(self) -> rules.QualityRules | None:
        return rules.rules(self.quality)

    @cached_property
    def _named(self) -> list[tuple[str, str]]:
        if not self.decontaminate or not self.decontaminate_words:
            return []
        return named_items(self.decontaminate, self.cache_dir or "outputs/cache", self.encoding, self.columns)

    @cached_property
    def _earlier(self) -> list[tuple[str, str]]:
        if not self.earlier_heldout or not self.decontaminate_words:
            return []
        found = named_items(self.earlier_heldout, self.cache_dir or "outputs/cache", key="data.earlier_heldout")
        return list({text: (text, source) for text, source in reversed(found)}.values())[::-1]  # each text once

    def refused(self, record: Record, by_language: Counter[str]) -> tuple[str, str] | None:
        """The reason why a record is left out, by itself, and what a user is told; None: it stays. Where languages are
        told apart, the record is counted under its own."""
        if self.languages:
            languages.tell_if_by_script()
            found = languages.language(all_of(record))
            by_language[found] += 1
            if not languages.wanted(found, self.languages):
                return "other_language", f"{record.source}: is in {found!r}, and data.languages={list(self.languages)}"
        if self._limits is not None:
            broke = rules.broken(all_of(record), self._limits, is_english)
            if broke is not None:
                name, value = broke
                limit = getattr(self._limits, name)
                return f"{rules.REASON}{name}", f"{record.source}: {name} is {limit:g}, and it has {value:.3g}"
        return None

    # Near duplicates

    def near_duplicates(self, records: Sequence[Record]) -> Dropped:
        """Records of which a longer one says nearly the same. Judgements are facts of their own: none is dropped."""
        if not self.near or not records or isinstance(records[0], Comparison | Labelled):
            return {}
        homes = self._near("all", all_of, records, kept)
        return {
            one: f"{records[one].source}: says nearly the same as {records[home].source}"
            for one, home in enumerate(homes)
            if one != home
        }

    def near_heldout(self, train: Sequence[Record], heldout: Sequence[Record]) -> Dropped:
        """Training records that say, or ask, nearly the same as a held-out one."""
        if not self.near or not train or not heldout:
            return {}

        def make() -> list[int]:
            held, asked = ([asked_of(record) for record in some] for some in (heldout, train))
            return like_one_of(held, asked, self.near_threshold)

        key = ["near_heldout", WORDS, self.near_threshold, len(heldout)]
        return {
            one: f"{train[one].source}: nearly the same as {heldout[int(home)].source}, which is held out"
            for one, home in enumerate(self._remembered(key, [*heldout, *train], make))
            if home >= 0
        }

    def groups(self, records: Sequence[Record]) -> Callable[[Record], bytes]:
        """The key of what stands on one side of a split: a prompt, with those that ask nearly the same as it or as
        another of them."""
        if not self.near or not records or isinstance(records[0], Document):
            return group_key  # near duplicates among documents were dropped: there is nothing to group
        distinct = list({group_key(record): record for record in records}.items())
        homes = self._near("asked", asked_of, [record for _, record in distinct], connected)
        homes_of = {key: distinct[home][0] for (key, _), home in zip(distinct, homes, strict=True)}
        return lambda record: homes_of[group_key(record)]

    def _near(
        self,
        part: str,
        text_of: Callable[[Record], str],
        records: Sequence[Record],
        homes_of: Callable[[Similar], list[int]],
    ) -> list[int]:
        """For each record the one that stands for it."""

        def make() -> list[int]:
            keys = [content_key(record) for record in records]
            found = similar([text_of(record) for record in records], self.near_threshold, priority=keys)
            return homes_of(found)

        key = ["near", part, homes_of.__name__, WORDS, self.near_threshold]
        return [int(home) for home in self._remembered(key, records, make)]

    # What is held out

    def holding_heldout(self, train: Sequence[Record], heldout: Sequence[Record]) -> Dropped:
        """Training records that hold a held-out item, or one of the files that ``decontaminate`` names."""
        if not self.decontaminate_words or not train:
            return {}
        told: Dropped = {}
        for _, items, least in self.searched(heldout):
            for one, item in self._held(items, least, train):
                told.setdefault(one, f"{train[one].source}: holds what is held out, {items[item][1]}")
        return dict(sorted(told.items()))

    def held_out_earlier(self, train: Sequence[Record]) -> Dropped:
        """Training records that hold an item of the earlier stages' held-out sets, or ask just what one asks, however
        short that is."""
        if not train or not self._earlier:
            return {}
        places = dict(self._earlier)
        told = {one: places[asked] for one, record in enumerate(train) if (asked := asked_of(record)) in places}
        told |= {one: self._earlier[item][1] for one, item in self._held(self._earlier, LEAST, train)}
        return {
            one: f"{train[one].source}: holds what an earlier stage holds out, {source}"
            for one, source in sorted(told.items())
        }

    def searched(
        self, heldout: Sequence[Record], earlier: bool = False
    ) -> list[tuple[str, list[tuple[str, str]], int]]:
        """What is looked for in training texts: why it is left out, items (text, where it is from), and how many words
        of one are enough to look for it. ``earlier``: with those of earlier stages' held-out sets."""
        if not self.decontaminate_words:
            return []
        own = [(asked_of(record), record.source) for record in heldout]
        found = [("decontaminated", own, LEAST), ("decontaminated", self._named, LEAST_NAMED)]
        found += [("earlier_heldout", self._earlier, LEAST)] if earlier else []
        return [each for each in found if each[1]]

    def _held(self, items: Sequence[tuple[str, str]], least: int, train: Sequence[Record]) -> list[tuple[int, int]]:
        texts = [text for text, _ in items]
        n, part = self.decontaminate_words, self.decontaminate_share

        def make() -> list[tuple[int, int]]:
            return list(HeldoutItems(texts, n=n, share=part, least=least).held_by([all_of(one) for one in train]))

        known = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        return [(int(a), int(b)) for a, b in self._remembered(["held", known, n, part, least], train, make)]

    def _remembered(self, key: Sequence[Any], records: Sequence[Record], make: Callable[[], list[Any]]) -> list[Any]:
        """What was decided of the same records before, or is now: a run reads its data more than once."""
        if self.cache_dir is None:
            return make()
        digest = hashlib.sha256(json.dumps([code_key(*CODE), *key]).encode())
        for record in records:
            digest.update(content_key(record))
        place = Path(self.cache_dir) / "quality" / f"{digest.hexdigest()[:32]}.json"
        try:
            known = json.loads(place.read_text(encoding="utf-8"))
            if isinstance(known, list):
                return known
        except (OSError, ValueError):
            pass  # not there, or not whole
        made = make()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, made, indent=None)
        except (OSError, NotWritten):
            log.debug("%s: cannot be written", place)
        return made


def is_english(text: str) -> bool:
    """Whether a text is English for certain: nothing is, where only scripts are told apart."""
    return languages.language(text) == "en"


def screening_of(options: DataOptions) -> Screening:
    """Which records are left out beside bad rows, as the options say."""
    return Screening(
        deduplicate=options.deduplicate,
        near_threshold=options.near_threshold,
        decontaminate=options.decontaminate,
        earlier_heldout=options.earlier_heldout,
        decontaminate_words=options.decontaminate_words,
        decontaminate_share=options.decontaminate_share,
        quality=options.quality,
        languages=options.languages,
        cache_dir=options.cache_dir,
        encoding=options.encoding,
        columns=options.columns,
    )
