"""A corpus in shards that was prepared elsewhere: a folder or a store with a copy of ``tokens/``, and no texts.

``tokens/corpora/KEY/prepared.json`` names all that a run needs: shards with the positions that each trains, fates, what
is held out, counts, and the tokenizer by its fingerprint. It is written when a corpus was searched for held-out items.
Shards of a store are fetched when their rows are read, those of the next window ahead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.data.counts import Counts
from lit_llm.data.options import DataPath, TextOptions
from lit_llm.data.shards.corpus import Corpus, heldout_in, waiting, write_heldout
from lit_llm.data.shards.fates import TRAIN
from lit_llm.data.shards.making import Maker
from lit_llm.data.shards.rows import ShardedRows
from lit_llm.data.shards.search import without_heldout
from lit_llm.data.shards.shard import Shard, sha256
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED
from lit_llm.data.stores import Ahead, on_disk
from lit_llm.data.token_files import PREPARED, is_prepared
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.atomic_files import NotWritten, write_json, written_atomically
from lit_llm.runtime.run_lock import alone
from lit_llm.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
FATES, HELDOUT = "prepared.bin", "prepared.jsonl.gz"
_VERSION = 2


def keep(corpus: Corpus) -> None:
    """Writes what a run elsewhere needs of a corpus beside its manifest; its counts are complete."""
    try:
        with alone(corpus.folder, waiting):  # another run may keep the same corpus, searched for other items
            _keep(corpus)
    except NotWritten as error:
        raise UserError(f"{error}; set data.cache_dir elsewhere") from None


def _keep(corpus: Corpus) -> None:
    try:
        known = json.loads((corpus.folder / PREPARED).read_text(encoding="utf-8"))
        if (known["version"], known["content"]) == (_VERSION, corpus.content) and _hashes(corpus) == known["sha256"]:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or of other options
    trained = [
        int(np.maximum(shard.about()["tokens"][of == TRAIN].astype(np.int64) - 1, 0).sum())
        for shard, of in corpus.by_shard()
    ]
    told = {
        "version": _VERSION,
        "tokenizer": corpus.maker.tokenizer.fingerprint(),
        "says": corpus.says,
        "content": corpus.content,
        "shards": [
            {"place": "/".join(Path(shard.folder).parts[-2:]), "documents": shard.documents,
             "tokens": shard.tokens, "dtype": shard.facts["dtype"], "trained": positions,
             "sha256": shard.facts["sha256"]}
            for shard, positions in zip(corpus.shards, trained, strict=True)
        ],
        "counts": corpus.counts.plain(),
    }  # fmt: skip
    with written_atomically(corpus.folder / FATES) as file:
        file.write(np.ascontiguousarray(corpus.fates).tobytes())
    write_heldout(corpus.folder / HELDOUT, [(name, one) for name, some in corpus.splits.items() for one in some])
    # Last. Where it is not reached, the one of before does not fit the two files, and is refused.
    write_json(corpus.folder / PREPARED, told | {"sha256": _hashes(corpus)}, indent=None)


def _hashes(corpus: Corpus) -> dict[str, str]:
    return {name: sha256(corpus.folder / name) for name in (FATES, HELDOUT)}


def hold_apart(corpus: Corpus, others: Sequence[Document]) -> None:
    """Leaves out of a corpus' training texts what it or others hold out, counts what is left, and keeps that for runs
    elsewhere. One that comes from elsewhere is as it is.

    Raises UserError as ``search.without_heldout``.
    """
    if corpus.prepared:
        if others:
            log.warning(
                "data.path=%s: its texts are not here: what other sources hold out is not looked for in it", corpus.path
            )
        return
    without_heldout(corpus, others)
    corpus.count_tokens()
    keep(corpus)


class FilesAhead:
    """Looks at the files of shards before their rows are read: those of a store are fetched, and every byte is checked,
    here, where an error ends the run in one line, and not in a loader's worker."""

    def __init__(self, rows: ShardedRows) -> None:
        self._rows, self._ahead = rows, Ahead([])

    def shards(self, now: Sequence[int], following: Sequence[int]) -> None:
        """These are read now, and these next. Raises UserError for a damaged one among the former."""
        for file in self._rows.files_of([*now, *following]):
            self._ahead.wants(file)
        self._rows.check(now)


def prepared_corpus(options: TextOptions, path: DataPath, tokenizer: Tokenizer) -> Corpus | None:
    """The corpus of the ``prepared.json`` that a path names; None for another path.

    Raises UserError for one of another tokenizer, or a damaged one.
    """
    files = resolve(path, options.cache_dir).get(UNDIVIDED, [])
    if len(files) != 1 or not is_prepared(files[0]):
        return None
    file = files[0]
    try:
        told = json.loads(Path(on_disk(file)).read_text(encoding="utf-8"))
        if told["version"] != _VERSION:
            raise ValueError(f"version {told['version']}")
        base = file.rsplit("/", 1)[0] if "/" in file else "."
        for name, known in told["sha256"].items():
            if name not in (FATES, HELDOUT) or sha256(Path(on_disk(f"{base}/{name}"))) != known:
                raise ValueError(f"{name} is damaged, or of another preparation")
        shards = [_shard(f"{base}/../../shards/{one['place']}", one) for one in told["shards"]]
        fates: Any = np.memmap(on_disk(f"{base}/{FATES}"), np.uint8, "r") if shards else np.zeros(0, np.uint8)
        if len(fates) != sum(shard.documents for shard in shards):
            raise ValueError(f"{FATES} is of another corpus")
        splits = heldout_in(Path(on_disk(f"{base}/{HELDOUT}")))
        counts = Counts()
        counts.join(told["counts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is no prepared corpus ({' '.join(str(error).split())[:100]})") from None
    if told["tokenizer"] != tokenizer.fingerprint():
        raise UserError(
            f"{file}: was prepared with another tokenizer; give that one (init_from, tokenizer.folder), or the texts "
            "as data.path"
        )
    maker = Maker(options, UNDIVIDED, tokenizer, Path(), 0.0)
    return Corpus(path, Path(base), maker, [], [shards], fates, splits, counts, told["says"], file, prepared=True)


def _shard(folder: str, told: dict[str, Any]) -> Shard:
    parts = folder.split("/")
    while ".." in parts:  # a store knows no folder above
        at = parts.index("..")
        del parts[at - 1 : at + 1]
    return Shard("/".join(parts), {**told, "files": []})
