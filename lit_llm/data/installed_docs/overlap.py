"""What training and held-out parts of the default corpus must not share, dropped first and then counted on the files.

Three things must not be on both sides, whatever the part: a function that is asked about, a question, and an answer,
which may also stand word for word as a paragraph of the raw text. Case and punctuation are ignored. The set of unheard
wordings is about functions that are trained, on purpose: only its questions must be new.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]
TEXTS = ("raw_text", "domain")
KNOWN_FUNCTIONS = "test_wordings"
LONG = 40  # characters: a shorter paragraph may be said twice, unless it answers a held-out question


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def said(row: Mapping[str, Any]) -> str:
    """All of a row: a text, a source and its target, a conversation."""
    if "messages" in row:
        return plain(" ".join(m["content"] for m in row["messages"]))
    return plain(row.get("text") or f"{row['source']} {row['target']}")


def question(row: Mapping[str, Any]) -> str:
    if "messages" not in row:
        return plain(row["source"])
    messages = row["messages"]
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return plain(" ".join(m["content"] for m in asked))


def answers(row: Mapping[str, Any]) -> list[str]:
    if "messages" in row:
        return [plain(m["content"]) for m in row["messages"] if m["role"] == "assistant"]
    return [plain(row["target"])]


def drop(parts: Mapping[str, Splits]) -> None:
    """Exact duplicates and all that training shares with what is held out; the held-out row stays."""
    for splits in parts.values():
        _drop_duplicates(splits)
    functions, questions, kept_back = _held_out(parts)
    longest = max(map(len, kept_back), default=0)
    for part, splits in parts.items():
        if part in TEXTS:
            cut = (_without(row, kept_back, longest) for row in splits["train"])
            splits["train"] = [row for row in cut if row is not None]
        else:
            splits["train"] = [
                row
                for row in splits["train"]
                if row.get("function") not in functions and question(row) not in questions
            ]


def count(folder: Path, parts: Iterable[str]) -> dict[str, dict[str, int]]:
    """{part: {split: rows}} that share a function, a question, an answer or a long paragraph with training.

    Counted afresh on what is written.
    """
    names = {part: sorted(p.stem for p in (folder / part).glob("*.jsonl")) for part in parts}
    paragraphs: set[str] = set()
    functions: set[str] = set()
    questions: set[str] = set()
    for part in names:
        for row in _read(folder, part, "train"):
            if part in TEXTS:
                paragraphs.update(_paragraphs(row))
            else:
                questions.add(question(row))
                functions.add(row.get("function", ""))
    functions.discard("")

    def shared(part: str, split: str, row: Row) -> bool:
        if part in TEXTS:
            return any(len(p) >= LONG and p in paragraphs for p in _paragraphs(row))
        if question(row) in questions:
            return True
        return split != KNOWN_FUNCTIONS and (
            row.get("function") in functions or any(a in paragraphs for a in answers(row))
        )

    return {
        part: {
            split: sum(shared(part, split, row) for row in _read(folder, part, split))
            for split in splits
            if split != "train"
        }
        for part, splits in names.items()
    }


def _drop_duplicates(splits: Splits) -> None:
    seen: set[str] = set()
    for split in sorted(splits, key=lambda s: s == "train"):
        kept = []
        for row in splits[split]:
            if (key := said(row)) not in seen:
                seen.add(key)
                kept.append(row)
        splits[split] = kept


def _held_out(parts: Mapping[str, Splits]) -> tuple[set[str], set[str], set[str]]:
    """Functions, questions and answers of what is held out."""
    functions: set[str] = set()
    questions: set[str] = set()
    kept_back: set[str] = set()
    for part, splits in parts.items():
        for split, rows in splits.items():
            if part in TEXTS or split == "train":
                continue
            questions.update(question(row) for row in rows)
            if split != KNOWN_FUNCTIONS:
                functions.update(row["function"] for row in rows if row.get("function"))
                kept_back.update(answer for row in rows for answer in answers(row))
    return functions, questions, kept_back


def _without(row: Row, kept_back: set[str], longest: int) -> Row | None:
    """The document less the paragraphs that are held-out answers; None if too little is left."""
    title, *paragraphs = row["text"].split("\n\n")
    # An answer is short: what is much longer need not be made plain, which is most of the time this takes.
    fresh = [p for p in paragraphs if len(p) > 2 * longest or plain(p) not in kept_back]
    if len(fresh) == len(paragraphs):
        return row
    if sum(len(p) for p in fresh if len(p) >= LONG) < LONG:
        return None
    return {**row, "text": "\n\n".join([title, *fresh])}


def _paragraphs(row: Mapping[str, Any]) -> list[str]:
    """A document's paragraphs but its title."""
    return [plain(p) for p in row["text"].split("\n\n")[1:]]


def _read(folder: Path, part: str, split: str) -> Iterator[Row]:
    with (folder / part / f"{split}.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
