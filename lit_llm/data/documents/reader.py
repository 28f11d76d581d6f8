"""Which reader reads which kind of document. What is here runs in a worker, which imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lit_llm.data.documents.contents import not_of_kind, nothing_in
from lit_llm.data.documents.needs import NEEDS
from lit_llm.data.documents.parts import Part, Unreadable, joined
from lit_llm.runtime.code_key import code_key

CODE = ("lit_llm.data.documents", "lit_llm.data.charsets", "lit_llm.data.compression")
"""What makes the text. Its hash is part of each result's key in the cache."""
_READERS: dict[str, tuple[str, str]] = {
    ".pdf": ("pdf", "read_pdf"),
    ".docx": ("docx", "read_docx"),
    ".docm": ("docx", "read_docx"),
    ".html": ("html", "read_html"),
    ".htm": ("html", "read_html"),
    ".xhtml": ("html", "read_html"),
    ".epub": ("epub", "read_epub"),
    ".odt": ("odf", "read_odf"),
    ".ods": ("odf", "read_odf"),
    ".odp": ("odf", "read_odf"),
    ".pptx": ("pptx", "read_pptx"),
    ".xlsx": ("xlsx", "read_xlsx"),
    ".xlsm": ("xlsx", "read_xlsx"),
    ".rtf": ("rtf", "read_rtf"),
}

_TELL = ("docx", "epub", "pdf", "xlsx")
"""Modules whose readers give warnings beside the parts."""


def versions() -> str:
    """What a result depends on besides the document."""
    return " ".join([code_key(*CODE), *(f"{name} {version(name.replace('_', '-'))}" for name in NEEDS)])


def read(kind: str, data: bytes, encoding: str) -> dict[str, Any]:
    """A document's text, where its parts begin, the encoding if it was found out, and what the user is to be told of it
    (``warnings``). Raises Unreadable."""
    if said := nothing_in(data):
        raise Unreadable("empty_file", said)
    module, name = _READERS[kind]
    if module == "html" and (said := not_of_kind(data, kind)):  # letters can be made of any bytes
        raise Unreadable("broken_document", said)
    reader: Callable[..., Any] = getattr(import_module(f"lit_llm.data.documents.{module}"), name)
    found_encoding, warnings = "", list[str]()
    try:
        if module == "html":
            parts, decoded = reader(data, encoding)
            found_encoding = decoded.encoding
        elif module in _TELL:
            parts, warnings = reader(data)
        else:
            parts = reader(data)
        return {**_result(parts, found_encoding), "warnings": warnings}
    except Unreadable as error:
        if error.reason in ("broken_document", "empty_text") and (said := not_of_kind(data, kind)):
            raise Unreadable("broken_document", said) from None
        raise


def _result(parts: list[Part], encoding: str) -> dict[str, Any]:
    text, places = joined(parts)
    if not text:
        raise Unreadable("empty_text", "no text in it")
    return {"text": text, "parts": places, "encoding": encoding}
