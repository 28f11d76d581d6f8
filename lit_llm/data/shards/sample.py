"""Texts that a tokenizer learns from, of a corpus that is too large to be read for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lit_llm.data.filters import content_key, share
from lit_llm.data.not_usable import known_at_the_end
from lit_llm.data.options import DataPath, TextOptions
from lit_llm.data.reading import tell_unread
from lit_llm.data.shards.making import reading_of, rows_of
from lit_llm.data.shards.portions import PORTION, portions
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED
from lit_llm.data.token_files import is_tokens
from lit_llm.errors import UserError
from lit_llm.records import Document

CHARACTERS = 200_000_000
"""Of all texts: a vocabulary of 50,000 tokens learned from them is what ten times as much gives, but for rare words."""


def sample(options: TextOptions, path: DataPath) -> Iterator[str]:
    """Training texts from portions that are spread evenly over the corpus, the same every time.

    None that is held out is among them: neither what files hold out, nor what a hash of the text may.
    Raises UserError for bad rows that stop a run.
    """
    ignored: list[str] = []
    files = resolve(path, options.cache_dir, ignored)
    split = UNDIVIDED if UNDIVIDED in files else "train"
    named = reading_of(options)
    known = {
        content_key(one)
        for name, some in files.items()
        if name != split
        for one in named.records(named.rows(some), name)
    }
    below = 0.0 if "validation" in files else options.validation_fraction
    below += 0.0 if any(name.startswith("test") for name in files) else options.test_fraction
    if is_tokens(files.get(split, [])):
        raise UserError(
            f"{files[split][0]}: holds tokens, of which no tokenizer can be learned; give the one that made them: "
            "init_from=FOLDER, or tokenizer=folder tokenizer.folder=FOLDER"
        )
    found = list(portions(files.get(split, []), named.encoding, options.cache_dir))
    places = np.unique(np.linspace(0, len(found) - 1, min(len(found), CHARACTERS // PORTION)).astype(int)).tolist()
    for place in places:
        reading, left = reading_of(options, found[place]), CHARACTERS // len(places)
        for record in reading.records(rows_of(found[place], reading), split):
            assert isinstance(record, Document)
            key = content_key(record)
            if share(key) >= below and key not in known:
                yield record.text
                left -= len(record.text)
            if left <= 0:
                break
        if reading.bad:
            tell_unread(path, ignored, "texts", reading.counts)
            with known_at_the_end(reading.counts.overview):
                reading.end(path)
