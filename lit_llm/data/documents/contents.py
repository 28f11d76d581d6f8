"""What a file is by its content, for messages: a name may have the wrong ending, or none."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple

SEEN = 2**16  # bytes of a file's beginning that tell
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PAGE = re.compile(rb"\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,1000}?-->\s*)?<(!doctype\s+html|html)\b", re.I | re.DOTALL)
_ODD = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that no text of single bytes has


class Seen(NamedTuple):
    """What a file is, and the ending that its name would have."""

    what: str
    ending: str

    @property
    def remedy(self) -> str:
        """What to do with such a file that has another name."""
        return _OTHERWISE.get(self.ending, f"rename it to {self.ending}")


_OTHERWISE = {
    ".doc": "save it anew, as .docx",
    **dict.fromkeys((".png", ".jpg", ".gif"), "its text must be recognized first (OCR)"),
    **dict.fromkeys((".7z", ".rar"), "unpack it"),
    **{ending: f"add {ending} to its name" for ending in (".gz", ".bz2", ".xz", ".zst")},
}
"""Of what is read under no name: what to do."""
_MARKS = (
    (b"%PDF-", Seen("a PDF", ".pdf")),
    (b"{\\rtf", Seen("RTF", ".rtf")),
    (b"PK\x05\x06", Seen("an empty zip file", ".zip")),
    (b"\x1f\x8b", Seen("a gzip file", ".gz")),
    (b"BZh", Seen("a bzip2 file", ".bz2")),
    (b"\xfd7zXZ\0", Seen("an xz file", ".xz")),
    (b"\x28\xb5\x2f\xfd", Seen("a zstandard file", ".zst")),
    (b"PAR1", Seen("a parquet file", ".parquet")),
    (b"ARROW1", Seen("an Arrow file", ".arrow")),
    (b"\x89PNG", Seen("a picture", ".png")),
    (b"\xff\xd8\xff", Seen("a picture", ".jpg")),
    (b"GIF8", Seen("a picture", ".gif")),
    (b"7z\xbc\xaf\x27\x1c", Seen("a 7z archive", ".7z")),
    (b"Rar!", Seen("a rar archive", ".rar")),
    (_OLE, Seen("a file of Office before 2007, or an encrypted one", ".doc")),
)
_FOLDERS = {
    "word": Seen("a Word document", ".docx"),
    "xl": Seen("an Excel workbook", ".xlsx"),
    "ppt": Seen("a PowerPoint file", ".pptx"),
}
"""By a folder at the top of a zip file."""
_SAID = {
    "application/epub+zip": Seen("an electronic book", ".epub"),
    "application/vnd.oasis.opendocument.text": Seen("an OpenDocument text", ".odt"),
    "application/vnd.oasis.opendocument.spreadsheet": Seen("an OpenDocument sheet", ".ods"),
    "application/vnd.oasis.opendocument.presentation": Seen("an OpenDocument presentation", ".odp"),
}
"""By what a zip file's member ``mimetype`` says."""


def kind_seen(data: bytes | bytearray) -> Seen | None:
    """What a file with such bytes is; None where nothing tells. ``data``: all of it, or its beginning."""
    begin = bytes(data[:SEEN])
    if not begin.strip(b"\0"):
        return None
    if begin.startswith(b"PK\x03\x04"):
        return _packed(data)
    found = next((seen for mark, seen in _MARKS if begin.lstrip().startswith(mark)), None)
    if found is not None:
        return found
    text = begin.removeprefix(b"\xef\xbb\xbf")
    if _PAGE.match(text):
        return Seen("a page of the web", ".html")
    if text.lstrip()[:1] in b"{[" and b'"' in text:
        return Seen("JSON", ".jsonl" if text.lstrip()[:1] == b"{" else ".json")
    return None if _ODD.search(text) else Seen("a text", ".txt")


def _packed(data: bytes | bytearray) -> Seen | None:
    """What a zip file is, by its members; by those at its beginning where its end is not there, which may not tell."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as whole:
            names = whole.namelist()
            with whole.open("mimetype") if "mimetype" in names else io.BytesIO() as said:
                kind = said.read(100).decode("ascii", "replace").strip()
        otherwise: Seen | None = _SAID.get(kind, Seen("a zip file", ".zip"))
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError, RuntimeError):
        found = re.findall(rb"PK\x03\x04.{26}(word|xl|ppt)/", bytes(data[:SEEN]), re.DOTALL)
        names, otherwise = [one.decode("ascii") for one in found], None
    return _of_office(names) or otherwise


def _of_office(names: Iterable[str]) -> Seen | None:
    """A file of Office, by the folders at the top of a zip file."""
    folders = {name.partition("/")[0] for name in names}
    return next((seen for folder, seen in _FOLDERS.items() if folder in folders), None)


def document_in(whole: zipfile.ZipFile) -> Seen | None:
    """The document that a zip file is, whatever its name; None of one that holds files. Surer than ``kind_seen``: files
    may be in a folder named ``word``."""
    names = whole.namelist()
    if "[Content_Types].xml" in names:
        return _of_office(names)
    if "mimetype" not in names:
        return None
    with whole.open("mimetype") as said:
        return _SAID.get(said.read(100).decode("ascii", "replace").strip())


def no_text_file(data: bytes | bytearray) -> str:
    """What is said of a file of texts (.txt, .md) that is another kind of file; "" where it may be a text.

    A text may begin with any letters, so most kinds need a byte as well that no text has. A page of the web is a text:
    ``is_page`` tells.
    """
    seen = kind_seen(data)
    if seen is None or seen.ending in (".txt", ".html", ".json", ".jsonl"):
        return ""
    if seen.ending not in (".pdf", ".rtf") and not _ODD.search(bytes(data[:SEEN])):
        return ""
    return f"{seen.what} by its content; {seen.remedy}"


def is_page(text: str) -> bool:
    """Whether a text is a whole page of the web, by its beginning."""
    return bool(_PAGE.match(text[:SEEN].encode("utf-8", "replace")))


def nothing_in(data: bytes | bytearray) -> str:
    """What is said of a file in which nothing is; "" where there is something."""
    if not data:
        return "empty: it has no byte"
    written = bytes(data[:SEEN]).strip(b"\0") or data.strip(b"\0")
    return "" if written else "nothing but NUL bytes: its writing was cut off"


def not_of_kind(data: bytes | bytearray, ending: str) -> str:
    """What is said of a file that is of another kind than its name says; "" where its content tells no other."""
    seen = kind_seen(data)
    if seen is None or seen.ending in _ALIKE.get(ending, (ending,)):
        return ""
    return f"no {ending} file by its content, but {seen.what}; {seen.remedy}"


_ALIKE = {
    ".docm": (".docx",),
    ".xlsm": (".xlsx",),
    **dict.fromkeys((".htm", ".html", ".xhtml"), (".html", ".txt", ".json", ".jsonl")),  # a piece of a page
}
"""Endings of what is seen in files that have these ones."""
