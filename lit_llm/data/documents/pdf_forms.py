"""What is written onto a PDF's page beside its content: filled fields of a form, and text that was put on it later
(ISO 32000-2, section 12.5). Notes in the margin and buttons are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pypdf.generic import StreamObject

from lit_llm.data.documents.pdf_objects import UNIT, Matrix, held, matrix_of, numbers, value_of

_HIDDEN = 2 | 32  # flags of an annotation: hidden, not on a screen
_MAX_PARENTS = 32


def appearances(page: Any) -> Iterator[tuple[Any, Matrix]]:
    """(form, where it stands) of each annotation that is text; the form's own matrix comes first."""
    listed = value_of(page.get("/Annots"))
    for one in listed if isinstance(listed, list) else ():
        one = value_of(one)
        kind = value_of(held(one, "/Subtype"))
        is_text = kind == "/FreeText" or (kind == "/Widget" and _field(one) != "/Btn")
        flags = value_of(held(one, "/F"))
        if not is_text or (isinstance(flags, int) and flags & _HIDDEN):
            continue
        form, place = value_of(held(held(one, "/AP"), "/N")), value_of(held(one, "/Rect"))
        if isinstance(form, StreamObject) and isinstance(place, list):
            yield form, _placed(form, place)


def _field(annotation: Any) -> Any:
    """The kind of a form's field, which it may have from the field that it is a part of."""
    for _ in range(_MAX_PARENTS):
        if (kind := value_of(held(annotation, "/FT"))) is not None or annotation is None:
            return kind
        annotation = value_of(held(annotation, "/Parent"))
    return None


def _placed(form: Any, place: Any) -> Matrix:
    """The matrix that puts a form's box into a rectangle of the page (algorithm 8.1)."""
    x0, y0, x1, y1 = numbers([value_of(one) for one in value_of(form.get("/BBox")) or ()], 4)
    a, b, c, d, e, f = matrix_of(value_of(form.get("/Matrix")) or UNIT)
    corners = [(a * x + c * y + e, b * x + d * y + f) for x in (x0, x1) for y in (y0, y1)]
    left, right = min(x for x, _ in corners), max(x for x, _ in corners)
    low, high = min(y for _, y in corners), max(y for _, y in corners)
    at = numbers([value_of(one) for one in place], 4)
    wide = abs(at[2] - at[0]) / (right - left) if right > left else 1.0
    tall = abs(at[3] - at[1]) / (high - low) if high > low else 1.0
    return wide, 0.0, 0.0, tall, min(at[0], at[2]) - left * wide, min(at[1], at[3]) - low * tall
