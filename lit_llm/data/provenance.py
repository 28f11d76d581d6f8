"""Where in a document a piece of it is from: its page, section, sheet or slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lit_llm.records import Document


def cut(document: Document, begin: int, end: int) -> Document:
    """The characters of a document from one to another, with the parts that they are in."""
    parts = document.parts
    ends = [at for at, _ in parts[1:]] + [len(document.text)]
    inside = (
        (max(at, begin) - begin, name)
        for (at, name), stop in zip(parts, ends, strict=False)
        if at < end and stop > begin
    )
    return replace(document, text=document.text[begin:end], parts=tuple(inside))


def joined(pieces: Sequence[Document]) -> Document:
    """Neighbouring pieces of one document as one."""
    parts: list[tuple[int, str]] = []
    length = 0
    for piece in pieces:
        parts += [(length + at, name) for at, name in piece.parts if not parts or parts[-1][1] != name]
        length += len(piece.text)
    return replace(pieces[0], text="".join(piece.text for piece in pieces), parts=tuple(parts))


def located(piece: Document) -> Document:
    """A piece whose source says its parts: ``contract.pdf:page 3``, ``contract.pdf:page 3 to page 5``."""
    if not piece.parts:
        return piece
    first, last = piece.parts[0][1], piece.parts[-1][1]
    return replace(piece, source=f"{piece.source}:{first if first == last else f'{first} to {last}'}")
