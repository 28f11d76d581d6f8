"""Web pages: the main text without menus. A page that has one ``<main>`` or one ``<article>`` says itself what that is;
of any other, trafilatura says where it begins and ends."""

from __future__ import annotations

import re
from typing import Any

from lit_llm.data.charsets import Decoded, decoded
from lit_llm.data.documents import markup
from lit_llm.data.documents.parts import Part, Unreadable, sections

_DECLARED = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})")
_HEAD = 2**16  # bytes in which a page says its encoding
_FRAMES = re.compile(rb"<(i?frame|frameset)\b", re.IGNORECASE)
_LEAST = 0.7  # of a page's text outside of its menus: less is not its main text
_ARTICLE = 0.5  # of it, that a page's one article has: less is one of many pieces
_SHORT = 20  # letters: a shorter block may be found by chance
_NOTE = re.compile(r"\W{0,2}\d{1,3}[\]).:]?\s|[*\u2020\u2191\u21a9^]")  # as a footnote begins
_MARK = re.compile(r" *(- |\w{1,6}\. )")  # of a list's item
_Blocks = list[tuple[int, str]]


def declared(data: bytes) -> str | None:
    """The encoding that a page says it is in."""
    found = _XML.search(data[:200]) or _DECLARED.search(data[:_HEAD])
    return found[1].decode("ascii") if found else None


def read_html(data: bytes, encoding: str) -> tuple[list[Part], Decoded]:
    """Its parts, and how it was decoded: by its own declaration, else by ``encoding``. Raises Unreadable."""
    try:
        text = decoded(data, encoding, declared(data))
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "its encoding is neither said nor found; set data.encoding") from None
    main = _main_text(text.text)
    if not main:
        what = "its frames' text is in other files" if _FRAMES.search(data) else "what a script writes needs a browser"
        raise Unreadable("empty_text", f"no text in it; {what}")
    return sections(main), text


def _main_text(text: str) -> _Blocks:
    root = markup.parse(text)
    around = markup.MENUS
    plain = list(markup.blocks(root, around, menus=False))
    if _size(plain) < 0.5 * _size(with_form := list(markup.blocks(root, around - {"form"}, menus=False))):
        around, plain = around - {"form"}, with_form  # the page is one form
    home = _home(root, plain, around)
    if home:
        return home
    plain = plain or list(markup.blocks(root, around)) or list(markup.blocks(root))
    kept = _within(plain, _letters(_extracted(text)))
    return kept if _size(kept) >= _LEAST * _size(plain) else plain


def _home(root: Any, plain: _Blocks, around: frozenset[str]) -> _Blocks:
    """The text of a page's one main element, or of its one article if that is no teaser among other text."""
    mains = [one for one in root.iter("*") if one.tag == "main" or one.get("role") == "main"]
    articles = list(root.iter("article"))
    if len(mains) == 1:
        return list(markup.blocks(mains[0], around - {"header", "footer", "aside", "form"}))
    if len(articles) == 1:
        found = list(markup.blocks(articles[0], around))
        return found if _size(found) >= _ARTICLE * _size(plain) else []
    return []


def _within(plain: _Blocks, main: str) -> _Blocks:
    """What is between the first and the last block of the main text, with the page's title before it and its notes
    behind it."""
    texts = [_letters(_MARK.sub("", block)) for _, block in plain]
    found = [number for number, one in enumerate(texts) if len(one) >= _SHORT and one in main]
    if not found:
        return []
    begin, end = found[0], found[-1] + 1
    after = main[main.rfind(texts[end - 1]) + len(texts[end - 1]) :]
    while end < len(plain) and texts[end] in after:  # short ones
        end += 1
    while begin and plain[begin - 1][0]:
        begin -= 1
    titles = [number for number, (level, _) in enumerate(plain) if level == 1]
    if len(titles) == 1:
        begin = min(begin, titles[0])
    behind = [block for block in plain[end:] if _NOTE.match(block[1])]
    return plain[begin:end] + behind


def _extracted(text: str) -> str:
    from trafilatura import bare_extraction

    tree = markup.parse(text)  # a tree, and no text: what may be an address is nowhere opened
    found = bare_extraction(tree, include_comments=False, include_tables=True, with_metadata=False)
    body = getattr(found, "body", None)
    if body is None or len(body) < 2:  # one block, with the menus in it: it did not find the text's blocks
        return ""
    return "".join(body.itertext())


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _size(blocks: _Blocks) -> int:
    return sum(len(block) for _, block in blocks)
