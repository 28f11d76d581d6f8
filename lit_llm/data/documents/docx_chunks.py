"""Documents within a Word document (``altChunk``, ECMA-376 part 1, 17.17.2): what programs put into it whole, as HTML,
RTF, text or another Word document. Word shows them as text of its own, and so are they read."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from email import message_from_bytes, policy
from typing import TypeAlias

from lit_llm.data.charsets import decoded
from lit_llm.data.documents import markup
from lit_llm.data.documents.contents import kind_seen
from lit_llm.data.documents.html import declared
from lit_llm.data.documents.package import Package
from lit_llm.data.documents.parts import Unreadable
from lit_llm.data.documents.rtf import rtf_blocks
from lit_llm.runtime.counted import counted, verb

MAX_DEPTH = 4  # documents within each other
_NAMED = 3  # pieces that a warning names
_Blocks: TypeAlias = list[tuple[int, str]]
ReadWord: TypeAlias = Callable[[bytes, int], tuple[_Blocks, list[str]]]


class Chunks:
    """The pieces of one document.

    Args:
        members: {id of a relation: member}.
        depth: of how many documents this one stands in.
        read_word: gives the blocks of a Word document at a depth, and what is told of it.
    """

    def __init__(self, package: Package, members: Mapping[str, str], depth: int, read_word: ReadWord) -> None:
        self._package, self._members, self._depth, self._read_word = package, members, depth, read_word
        self._unread: list[str] = []
        self._within: list[str] = []  # told of the pieces themselves

    def blocks(self, name: str) -> Iterator[tuple[int, str]]:
        """Those of the piece that a relation names; none of one that cannot be read, which ``told`` tells."""
        member = self._members.get(name, "")
        try:
            yield from self._read(member)
        except Unreadable as error:
            self._unread.append(f"{posixpath.basename(member) or name}: {error}")

    def told(self) -> list[str]:
        """What the user is to be told when all is read."""
        if not self._unread:
            return self._within
        number = len(self._unread)
        more = f", and {number - _NAMED} more" if number > _NAMED else ""
        what = f"{counted(number, 'embedded document')} {verb(number, 'is', 'are')} not read"
        return [*self._within, f"{what} ({'; '.join(self._unread[:_NAMED])}{more})"]

    def _read(self, member: str) -> _Blocks:
        data = self._package.read(member)
        if not data:
            raise Unreadable("broken_document", "not there")
        if self._depth >= MAX_DEPTH:
            raise Unreadable("document_bomb", f"documents within each other, deeper than {MAX_DEPTH}")
        ending = posixpath.splitext(member)[1].lower()
        seen = kind_seen(data)
        told = ".mht" if data.lstrip()[:13].lower() == b"mime-version:" else seen.ending if seen else ""
        kind = ending if told in ("", ".txt") and ending in _READERS else told
        if kind not in _READERS:
            raise Unreadable("broken_document", seen.what if seen else f"of the kind {ending or 'unknown'}")
        return _READERS[kind](self, data)

    def _word(self, data: bytes) -> _Blocks:
        blocks, told = self._read_word(data, self._depth + 1)
        self._within += told
        return blocks

    def _page(self, data: bytes) -> _Blocks:
        return _page(_text(data, declared(data)))

    def _archived_page(self, data: bytes) -> _Blocks:
        """Of MHTML, a page with its pictures as parts of a message (RFC 2557): the page."""
        message = message_from_bytes(data, policy=policy.default)
        for part in message.walk():
            if part.get_content_type() == "text/html":
                content = part.get_payload(decode=True)
                charset = part.get_content_charset()
                return _page(_text(content if isinstance(content, bytes) else b"", charset or None))
        raise Unreadable("empty_text", "no page in it")

    def _rtf(self, data: bytes) -> _Blocks:
        return rtf_blocks(data)

    def _text(self, data: bytes) -> _Blocks:
        return [(0, line) for line in _text(data).splitlines() if line.strip()]


def _page(text: str) -> _Blocks:
    return list(markup.blocks(markup.parse(text)))


def _text(data: bytes, charset: str | None = None) -> str:
    try:
        return decoded(data, "auto", charset).text
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "its encoding is neither said nor found") from None


_READERS: dict[str, Callable[[Chunks, bytes], _Blocks]] = {
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), Chunks._word),
    **dict.fromkeys((".html", ".htm", ".xhtml"), Chunks._page),
    **dict.fromkeys((".mht", ".mhtml"), Chunks._archived_page),
    ".rtf": Chunks._rtf,
    ".txt": Chunks._text,
}
