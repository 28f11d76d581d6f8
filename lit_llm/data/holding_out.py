"""Which records are held out, where the files do not say; and what training must not have of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby

from lit_llm.data.counts import Counts
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.file_rows import TEXTS, extension
from lit_llm.data.filters import Record, group_key, share, without_overlap
from lit_llm.data.formats import Kind
from lit_llm.data.found_encodings import warn_once
from lit_llm.data.provenance import cut, joined, located
from lit_llm.data.quality.screening import REMEDIES, Screening
from lit_llm.data.splits import UNDIVIDED
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.counted import counted

log = logging.getLogger(__name__)
FEW_TEXTS = 20  # fewer than these are cut into blocks, so that a part can be held out
BLOCKS = 200  # about so many in all
BLOCK_CHARACTERS = 400, 20_000
NAMED = 3  # texts in a warning
PASSAGES = "held_out_passages"
DROPS = {"in_heldout": "a held-out row has their text or prompt"} | {
    reason: REMEDIES[reason] for reason in ("near_heldout", "near_duplicate", "decontaminated", "earlier_heldout")
}
"""Why rows to train on are dropped where others are held out."""


def hold_out(
    splits: dict[str, list[Record]],
    kind: Kind,
    counts: Counts,
    validation: float,
    test: float,
    screening: Screening,
) -> dict[str, list[Record]]:
    """Hold out what the files do not, and take out of training what a held-out part has too.

    Raises UserError where there are rows to train on and none is left.
    """
    named = {name: records for name, records in splits.items() if name != UNDIVIDED}
    train = [*splits.get(UNDIVIDED, []), *named.pop("train", [])]
    rows, heldout = len(train), [record for records in named.values() for record in records]
    train = counts.drop("in_heldout", train, _said_in(heldout, train))
    train = counts.drop("near_heldout", train, screening.near_heldout(train, heldout))
    train = counts.drop("near_duplicate", train, screening.near_duplicates(train))
    wanted = {} if "validation" in named else {"validation": validation}
    wanted |= {} if any(name.startswith("test") for name in named) else {"test": test}
    wanted = {name: fraction for name, fraction in wanted.items() if fraction > 0}
    if kind == "texts" and wanted and len(train) < FEW_TEXTS:
        divided = _carve_blocks(train, wanted, heldout, counts, screening)
    else:
        divided = _carve(train, wanted, screening.groups(train)) if wanted else {"train": train}
        out = [record for name, records in divided.items() if name != "train" for record in records]
        train = divided.get("train", [])
        train = counts.drop("near_heldout", train, screening.near_heldout(train, out))
        train = counts.drop("decontaminated", train, screening.holding_heldout(train, [*heldout, *out]))
        train = counts.drop("earlier_heldout", train, screening.held_out_earlier(train))
        divided |= {"train": train}
    if rows and not divided["train"]:
        went = [(reason, counts.skipped[reason]) for reason in DROPS if counts.skipped[reason]]
        said = "; ".join(f"{number:,} {reason}: {DROPS[reason]}" for reason, number in went)
        first = next((counts.first[reason] for reason, _ in went), counts.first.get(PASSAGES, ""))
        raise UserError(
            f"data.path: no row is left to train on of {rows:,} ({said or DROPS['decontaminated']}); the first: {first}"
        )
    return divided | named


def _said_in(heldout: Sequence[Record], train: Sequence[Record]) -> dict[int, str]:
    """The numbers of the training records whose text or prompt a held-out one has, and what a user is told of each."""
    if not heldout:
        return {}
    staying = set(map(id, without_overlap(train, heldout)[0]))
    return {
        number: f"{record.source}: a held-out row has its text or prompt"
        for number, record in enumerate(train)
        if id(record) not in staying
    }


def _carve(
    records: list[Record], wanted: Mapping[str, float], key_of: Callable[[Record], bytes] = group_key
) -> dict[str, list[Record]]:
    """Split by the hash of what belongs together; each part gets something as soon as there is enough for all."""
    groups: dict[bytes, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    homes: dict[bytes, str] = {}
    for key in groups:
        at, homes[key] = share(key), "train"
        for name, fraction in wanted.items():
            if 0 <= at < fraction:
                homes[key] = name
            at -= fraction
    parts = ("train", *wanted)
    if len(groups) >= len(parts):
        for name in parts:  # a small corpus: the fullest part gives its first by hash
            if name not in homes.values():
                fullest = max(parts, key=lambda p: sum(h == p for h in homes.values()))
                homes[min(k for k, h in homes.items() if h == fullest)] = name
    else:
        homes = dict.fromkeys(groups, "train")
    split: dict[str, list[Record]] = {name: [] for name in parts}
    for key, members in groups.items():
        split[homes[key]] += members
    return {name: members for name, members in split.items() if members}


def _carve_blocks(
    texts: Sequence[Record],
    wanted: Mapping[str, float],
    heldout: Sequence[Record],
    counts: Counts,
    screening: Screening,
) -> dict[str, list[Record]]:
    """Holds out blocks of few texts; what is trained is as whole as that leaves it.

    Of each text of several blocks one at least is trained, where the parts that are held out can spare it; a warning
    tells of texts that are held out whole. A text ends where its end token is, so neighbouring blocks that are trained
    are one text again. A block that holds what is held out, or nearly says it, is dropped by itself: no row is, so it
    is counted as a place that was altered.
    """
    cuts = blocks([text for text in texts if isinstance(text, Document)])
    split = _spared(_carve([block for parts in cuts for block in parts], wanted), cuts)
    train = split.get("train", [])
    out = [block for name, members in split.items() if name != "train" for block in members]
    heldout = [*heldout, *out]
    near, held = screening.near_heldout(train, heldout), screening.holding_heldout(train, heldout)
    held |= screening.held_out_earlier(train)
    if told := near | held:
        counts.altered[PASSAGES] += len(told)
        counts.first.setdefault(PASSAGES, told[min(told)])
        _count_dropped(cuts, {id(train[number]) for number in told}, counts)
        counts.overview.passages.number += len(told)
        counts.overview.passages.near += len(near.keys() - held.keys())
    trained = {id(block) for number, block in enumerate(train) if number not in told}
    _tell_held_out_whole(cuts, {id(block) for block in out})
    runs = [list(run) for parts in cuts for kept, run in groupby(parts, lambda block: id(block) in trained) if kept]
    split = split | {"train": [joined(run) for run in runs]}
    return {name: [located(block) for block in parts if isinstance(block, Document)] for name, parts in split.items()}


def _count_dropped(cuts: Sequence[Sequence[Document]], dropped: Collection[int], counts: Counts) -> None:
    """Counts what each text loses. ``dropped``: the ids of its blocks that are dropped."""
    for parts in cuts:
        lost = sum(len(block.text) for block in parts if id(block) in dropped)
        if lost:
            runs = [list(run) for gone, run in groupby(parts, lambda block: id(block) in dropped) if not gone]
            counts.overview.drop_passages(joined(parts), [joined(run).text for run in runs], lost)


def _spared(split: dict[str, list[Record]], cuts: Sequence[Sequence[Document]]) -> dict[str, list[Record]]:
    """The split with a block of each text in training: of a text that is held out with all of its several blocks, the
    one with the largest hash in the part that has most. A block that another text has too goes with its equals."""
    parts = {name: {group_key(block) for block in some} for name, some in split.items()}
    moved = False
    for text in cuts:
        keys = dict.fromkeys(map(group_key, text))
        if len(keys) < 2 or not parts.get("train") or parts["train"] & keys.keys():
            continue
        homes = {key: next(name for name, some in parts.items() if key in some) for key in keys}
        free = [key for key in keys if len(parts[homes[key]]) > 1]
        if free:
            key = max(free, key=lambda key: (len(parts[homes[key]]), share(key)))
            parts[homes[key]].remove(key)
            parts["train"].add(key)
            moved = True
    if not moved:
        return split
    every = [block for some in split.values() for block in some]
    order = {id(block): number for number, block in enumerate(block for text in cuts for block in text)}
    every.sort(key=lambda block: order[id(block)])
    return {name: [block for block in every if group_key(block) in parts[name]] for name in split}


def _tell_held_out_whole(cuts: Sequence[Sequence[Document]], out: Collection[int]) -> None:
    """Warns of the files of which nothing is trained. ``out``: the ids of the blocks that are held out."""
    whole = [
        text[0].file
        for text in cuts
        if text and extension(text[0].file) in (*TEXTS, *DOCUMENTS) and all(id(block) in out for block in text)
    ]
    if whole:
        more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
        said = f"{counted(len(whole), 'text')} of {len(cuts)} held out whole, and not trained"
        warn_once(
            log,
            f"data: {said}: {', '.join(whole[:NAMED])}{more}; data.validation_fraction and "
            "data.test_fraction say how much is held out, data.path={train: ..., test: ...} says which",
        )


def blocks(documents: Sequence[Document]) -> list[list[Document]]:
    """Few long texts (one book, say) in blocks that end at blank lines, lines or blanks, where possible.

    Returns:
        For each text its blocks, about ``BLOCKS`` over all texts.
    """
    total = sum(len(d.text) for d in documents)
    size = min(max(total // BLOCKS, BLOCK_CHARACTERS[0]), BLOCK_CHARACTERS[1])
    return [list(_blocks(document, size)) for document in documents]


def _blocks(document: Document, size: int) -> Iterator[Document]:
    begin = 0
    while begin < len(document.text):
        end = _block_end(document.text, begin, size)
        part = cut(document, begin, end)
        if part.text.strip():
            yield part
        begin = end


def _block_end(text: str, begin: int, size: int) -> int:
    if len(text) - begin <= size + size // 2:
        return len(text)
    for ending in ("\n\n", "\n", " "):
        found = text.rfind(ending, begin + size // 2, begin + size)
        if found >= 0:
            return found + len(ending)
    return begin + size
