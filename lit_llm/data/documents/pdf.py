"""PDF: a part for each page. Page numbers are left out, and running headers where they are repeated; columns are read
one after another; a sentence goes on over the end of its page."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lit_llm.data.documents.parts import Part, Unreadable, broken
from lit_llm.data.documents.pdf_headers import without_headers
from lit_llm.data.documents.pdf_layout import Layout, blocks, hyphenated, joined
from lit_llm.data.documents.pdf_lines import Line, lines
from lit_llm.data.documents.pdf_words import Page, letters_run_left, read_page
from lit_llm.runtime.counted import counted, verb

_NAMED = 5  # pages that a warning names
_OPEN = re.compile(r"[\w,;\-\u2010]$")  # a page whose text ends so goes on


def read_pdf(data: bytes) -> tuple[list[Part], list[str]]:
    """Its pages, and what the user is to be told. Raises Unreadable: encrypted, scanned without a text layer, fonts
    without letters, broken."""
    pages = _pages(data)
    words = sum(len(page.words) for page in pages)
    letters = sum(len(word.text) for page in pages for word in page.words)
    unnamed = sum(page.unnamed for page in pages)
    if unnamed > letters:
        signs = f"{counted(unnamed, 'sign')} {verb(unnamed, 'is', 'are')}"
        raise Unreadable("no_text_layer", f"its fonts do not say which letters {signs}; recognize it (OCR)")
    images = sum(1 for page in pages if page.images)
    if not words:
        if images:
            what = f"{counted(images, 'page')} of images without text, as scanned; recognize it (OCR)"
            raise Unreadable("no_text_layer", what)
        raise Unreadable("empty_text", f"no text on its {counted(len(pages), 'page')}")
    right = sum(len(one.text) for page in pages for one in page.words if letters_run_left(one.text))
    right_to_left = right > letters / 2
    laid = [_lines(page, right_to_left) for page in pages]
    layout = Layout(right_to_left, hyphenated([one for each in laid for one in each]))
    bodies = without_headers([(page.height, each[0] if each else []) for page, each in zip(pages, laid, strict=True)])
    parts: list[Part] = []
    for number, (body, directions) in enumerate(zip(bodies, laid, strict=True), start=1):
        found = [block for lines in (body.lines, *directions[1:]) for block in blocks(lines, layout)]
        goes_on = bool(found) and _OPEN.search(found[-1]) is not None
        found = [*body.head, *body.foot, *found] if goes_on else [*body.head, *found, *body.foot]
        if found:
            parts.append(Part(f"page {number}", "\n\n".join(found)))
    return _sentences_over_pages(parts, layout), list(_told(pages))


def _told(pages: list[Page]) -> Iterator[str]:
    """What is said of pages that are read in part."""
    cut: dict[str, list[str]] = {}
    for number, page in enumerate(pages, start=1):
        if page.cut:
            cut.setdefault(page.cut, []).append(str(number))
    for why, numbers in cut.items():
        more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
        yield f"{verb(len(numbers), 'page', 'pages')} {', '.join(numbers[:_NAMED])}{more}: {why}"


def _pages(data: bytes) -> list[Page]:
    import pypdf
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of everything that it mends
    try:
        reader = pypdf.PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):  # what opens without a password is no secret
            raise Unreadable("encrypted", "encrypted; save it without its password")
        fonts: dict[Any, Any] = {}
        return [read_page(page, fonts) for page in reader.pages]
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("document_bomb", "its objects are nested too deep") from None
    except MemoryError:
        raise
    except pypdf.errors.LimitReachedError as error:
        raise Unreadable("document_bomb", f"more comes out of it than a page holds ({str(error)[:100]})") from None
    except pypdf.errors.DependencyError:
        raise Unreadable("encrypted", "encrypted; save it without its password") from None
    except PyPdfError as error:
        raise broken(error) from None
    except Exception as error:  # a damaged file: pypdf raises many kinds
        raise broken(f"{type(error).__name__}: {error}") from None


def _lines(page: Page, right_to_left: bool) -> list[list[Line]]:
    """The lines of each direction that a page is written in, the usual one first."""
    turns = Counter(word.turn for word in page.words)
    return [lines([word for word in page.words if word.turn == turn], right_to_left) for turn, _ in turns.most_common()]


def _sentences_over_pages(parts: list[Part], layout: Layout) -> list[Part]:
    """Joins the last paragraph of a page with the first of the next where that goes on with a small letter."""
    for number in range(1, len(parts)):
        before, part = parts[number - 1], parts[number]
        last, first = before.text.rpartition("\n")[2], part.text.partition("\n")[0]
        caseless = bool(first) and first[0].isalpha() and first[0].lower() == first[0].upper()
        if not (_OPEN.search(last) and (first[:1].islower() or caseless) and len(last) > 40):
            continue
        both = joined(last, first, layout)
        if not both.startswith(last):  # the hyphen goes
            parts[number - 1] = Part(before.name, before.text[:-1], before.joint)
            parts[number] = Part(part.name, part.text, "")
        else:
            parts[number] = Part(part.name, part.text, both[len(last) : len(both) - len(first)])
    return parts
