"""Web pages: the main text without menus (trafilatura), or all text where it finds none or next to none."""

from __future__ import annotations

import re
from typing import Any

from lit_llm.data.charsets import Decoded, decoded
from lit_llm.data.documents import markup
from lit_llm.data.documents.parts import Part, Unreadable, sections

_DECLARED = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})")
_TEI = {"list": "ul", "item": "li", "row": "tr", "cell": "td", "lb": "br", "quote": "blockquote", "hi": "span",
        "ref": "a", "del": "span", "graphic": "script"}  # fmt: skip
_LEAST = 0.1  # of a page's text outside of its menus: what is less is not its main text


def declared(data: bytes) -> str | None:
    """The encoding that a page says it is in."""
    found = _XML.search(data[:200]) or _DECLARED.search(data[:8192])
    return found[1].decode("ascii") if found else None


def read_html(data: bytes, encoding: str) -> tuple[list[Part], Decoded]:
    """Its parts, and how it was decoded: by its own declaration, else by ``encoding``. Raises Unreadable."""
    try:
        text = decoded(data, encoding, declared(data))
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "its encoding is neither said nor found; set data.encoding") from None
    plain = list(markup.blocks(markup.parse(text.text), markup.MENUS))
    main = list(_main_text(text.text))
    if sum(len(block) for _, block in main) < _LEAST * sum(len(block) for _, block in plain):
        main = plain
    if not main:
        raise Unreadable("empty_text", "no text in it; a page that a script writes is empty without a browser")
    titles = [block for block in plain if block[0] == 1]
    if len(titles) == 1 and all(level != 1 for level, _ in main) and titles[0] not in main:
        main.insert(0, titles[0])  # trafilatura takes the page's one title for part of its frame
    return sections(main), text


def _main_text(text: str) -> Any:
    from trafilatura import bare_extraction

    tree = markup.parse(text)  # a tree, and no text: what may be an address is nowhere opened
    found = bare_extraction(
        tree, include_comments=False, include_tables=True, include_formatting=True, with_metadata=False
    )
    body = getattr(found, "body", None)
    if body is None:
        return []
    for one in body.iter():
        if one.tag == "head":
            level = one.get("rend") or ""
            one.tag = level if re.fullmatch("h[1-6]", level) else "h2"
        elif one.tag == "list":
            one.tag = "ol" if one.get("rend") == "ol" else "ul"
        elif one.tag in ("code", "quote") and not len(one) and "\n" in "".join(one.itertext()).strip():
            one.tag = "pre"
        elif isinstance(one.tag, str):
            one.tag = _TEI.get(one.tag, one.tag)
    return markup.blocks(body)
