"""Electronic books (.epub): the chapters in the order of the spine. A part has its first heading's name, a note is at
the end of the section that refers to it."""

from __future__ import annotations

import posixpath
import re
from html import escape
from typing import Any

from lit_llm.data.charsets import decoded
from lit_llm.data.documents import markup
from lit_llm.data.documents.epub_notes import take_notes, with_notes
from lit_llm.data.documents.html import declared
from lit_llm.data.documents.package import Package, attribute, child, inside, local
from lit_llm.data.documents.parts import Part, Unreadable, broken, sections
from lit_llm.runtime.counted import verb

_PAGES = ("html", "dtbook", "oeb1-document")  # in the names of a chapter's type
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)  # text of XHTML, which a parser of HTML takes for a comment
_NAMED = 3  # chapters that a warning names


def read_epub(data: bytes) -> tuple[list[Part], list[str]]:
    """Its chapters, and what the user is to be told. Raises Unreadable."""
    package = Package(data)
    container = package.xml("META-INF/container.xml")
    files = [] if container is None else [one for one in container.iter() if local(one) == "rootfile"]
    book = next((attribute(one, "full-path") for one in files), None) or ""
    root = package.xml(book)
    if root is None:
        raise broken("no list of its chapters")
    wanted, lost = _chapters(root, posixpath.dirname(book))
    spelled = {name.casefold(): name for name in package.names}
    chapters = [name if name in package.names else spelled.get(name.casefold(), name) for name in wanted]
    _refuse_locked(package.xml("META-INF/encryption.xml"), chapters)
    parts: list[Part] = []
    trees: dict[str, Any] = {}
    for name in chapters:
        page = package.read(name)
        if page.strip():
            text = decoded(page, "auto", declared(page) or "utf-8").text
            trees[name] = markup.parse(_CDATA.sub(lambda found: escape(found[1]), text))
    notes = take_notes(trees)
    for number, name in enumerate(chapters, start=1):
        if name not in trees:
            continue
        found = sections(with_notes(markup.blocks(trees[name], frozenset(("nav",))), notes))
        parts += [Part(part.name or f"chapter {number}", part.text) for part in found]
    lost += [name for name in chapters if name not in package.names]
    named = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
    told = f"{len(lost)} of its chapters {verb(len(lost), 'is', 'are')} not in it ({named})"
    if not parts:
        raise Unreadable("empty_text", f"no text in its chapters{f'; {told}' if lost else ''}")
    return parts, [told] if lost else []


def _chapters(root: Any, folder: str) -> tuple[list[str], list[str]]:
    """The files in the order of the spine, and what that names and the list of files does not have. A book whose spine
    names no chapter is read in the order of its list."""
    items: dict[str, str] = {}
    others: set[str] = set()  # tables of contents, pictures
    for one in child(root, "manifest") if child(root, "manifest") is not None else ():
        if local(one) == "item":
            kind, file = (one.get("media-type") or "").lower(), inside(folder, one.get("href") or "")
            is_page = any(name in kind for name in _PAGES) or file.lower().endswith((".xhtml", ".html", ".htm"))
            if is_page and "nav" not in (one.get("properties") or "").split():
                items[one.get("id") or ""] = file
            else:
                others.add(one.get("id") or "")
    spine = child(root, "spine")
    order = [one.get("idref") or "" for one in (spine if spine is not None else ()) if local(one) == "itemref"]
    lost = [name for name in order if name not in items and name not in others]
    return list(dict.fromkeys(items[name] for name in order if name in items)) or list(items.values()), lost


def _refuse_locked(encryption: Any, chapters: list[str]) -> None:
    """Fonts may be obfuscated in an open book; chapters that are encrypted are a lock."""
    if encryption is None:
        return
    for one in encryption.iter():
        if local(one) == "CipherReference" and (one.get("URI") or "") in chapters:
            raise Unreadable("encrypted", "its chapters are encrypted (a book with a lock)")
