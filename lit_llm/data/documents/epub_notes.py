"""Notes of an electronic book (EPUB 3 structural semantics: ``noteref``, ``footnote``), written as those of Word are:
``[^1]`` in the text, and the note at the end of its section, wherever in the book it stands."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from lit_llm.data.documents import markup
from lit_llm.data.documents.package import inside, local
from lit_llm.data.documents.parts import one_line

_NOTE = {"aside", "li", "p", "div", "dd", "td"}  # elements that one note is
_MARK = re.compile(r"\[\^(\d+)\]")
_BACK = frozenset("↩↑⤴^\ufe0e\ufe0f ")


def take_notes(chapters: Mapping[str, Any]) -> dict[int, str]:
    """The notes by number. References to them become ``[^1]`` in the trees, and the notes are taken out of these.

    Args:
        chapters: {file in the book: root element}, in the order they are read.
    """
    references = [(name, one) for name, root in chapters.items() for one in root.iter("a") if "noteref" in _kinds(one)]
    if not references:
        return {}
    ids = {(name, one.get("id")): one for name, root in chapters.items() for one in root.iter("*") if one.get("id")}
    notes: dict[int, str] = {}
    numbers: dict[Any, int] = {}
    for name, reference in references:
        file, _, place = (reference.get("href") or "").partition("#")
        target = inside(posixpath.dirname(name), file) if file else name
        note = _note(ids.get((target, unquote(place))))
        around = set(reference.iterancestors())
        if note is None or note in around or any(one in around for one in numbers):
            continue
        if note not in numbers:
            text = _text(note, one_line("".join(reference.itertext())).strip("[]()"))
            if not text:
                continue
            numbers[note] = len(notes) + 1
            notes[numbers[note]] = text
        reference.tail = f"[^{numbers[note]}]{reference.tail or ''}"
        reference.drop_tree()
    for note in numbers:
        note.drop_tree()
    return notes


def with_notes(blocks: Iterable[tuple[int, str]], notes: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Blocks, with the notes of each section at its end."""
    waiting: dict[int, None] = {}
    for level, text in blocks:
        if level:
            yield from ((0, f"[^{number}]: {notes[number]}") for number in waiting)
            waiting = {}
        yield level, text
        waiting |= dict.fromkeys(number for number in map(int, _MARK.findall(text)) if number in notes)
    yield from ((0, f"[^{number}]: {notes[number]}") for number in waiting)


def _kinds(element: Any) -> set[str]:
    said = f"{element.get('epub:type') or ''} {element.get('role') or ''}"
    return {one.removeprefix("doc-") for one in said.split()}


def _note(element: Any) -> Any:
    while element is not None and local(element) in ("a", "span", "sup", "b", "i"):
        element = element.getparent()
    return element if element is not None and local(element) in _NOTE else None


def _text(note: Any, label: str) -> str:
    """A note without its number and the way back."""
    note.attrib.pop("hidden", None)
    for one in list(note.iter("a")):
        if "backlink" in _kinds(one) or set("".join(one.itertext())) <= _BACK:
            one.drop_tree()
    text = " ".join(block for _, block in markup.blocks(note))
    if label:
        text = re.sub(rf"^\W{{0,2}}{re.escape(label)}\W+", "", text)
    return one_line(text)
