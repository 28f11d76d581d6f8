"""Electronic books (.epub): the chapters in the order of the spine. A part has its first heading's name, a note is at
the end of the section that refers to it."""

from __future__ import annotations

import posixpath
from typing import Any

from lit_llm.data.charsets import decoded
from lit_llm.data.documents import markup
from lit_llm.data.documents.epub_notes import take_notes, with_notes
from lit_llm.data.documents.html import declared
from lit_llm.data.documents.package import Package, attribute, child, inside, local
from lit_llm.data.documents.parts import Part, Unreadable, broken, sections


def read_epub(data: bytes) -> list[Part]:
    """Raises Unreadable."""
    package = Package(data)
    container = package.xml("META-INF/container.xml")
    files = [] if container is None else [one for one in container.iter() if local(one) == "rootfile"]
    book = next((attribute(one, "full-path") for one in files), None) or ""
    root = package.xml(book)
    if root is None:
        raise broken("no list of its chapters")
    chapters = _chapters(root, posixpath.dirname(book))
    _refuse_locked(package.xml("META-INF/encryption.xml"), chapters)
    parts: list[Part] = []
    trees: dict[str, Any] = {}
    for name in chapters:
        page = package.read(name)
        if page.strip():
            trees[name] = markup.parse(decoded(page, "auto", declared(page) or "utf-8").text)
    notes = take_notes(trees)
    for number, name in enumerate(chapters, start=1):
        if name not in trees:
            continue
        found = sections(with_notes(markup.blocks(trees[name], frozenset(("nav",))), notes))
        parts += [Part(part.name or f"chapter {number}", part.text) for part in found]
    if not parts:
        raise Unreadable("empty_text", "no text in its chapters")
    return parts


def _chapters(root: Any, folder: str) -> list[str]:
    items: dict[str, str] = {}
    for one in child(root, "manifest") if child(root, "manifest") is not None else ():
        if local(one) == "item" and "nav" not in (one.get("properties") or "").split():
            kind = one.get("media-type") or ""
            if "html" in kind or "dtbook" in kind:
                items[one.get("id") or ""] = inside(folder, one.get("href") or "")
    spine = child(root, "spine")
    order = [one.get("idref") or "" for one in (spine if spine is not None else ()) if local(one) == "itemref"]
    return list(dict.fromkeys(items[name] for name in order if name in items))


def _refuse_locked(encryption: Any, chapters: list[str]) -> None:
    """Fonts may be obfuscated in an open book; chapters that are encrypted are a lock."""
    if encryption is None:
        return
    for one in encryption.iter():
        if local(one) == "CipherReference" and (one.get("URI") or "") in chapters:
            raise Unreadable("encrypted", "its chapters are encrypted (a book with a lock)")
