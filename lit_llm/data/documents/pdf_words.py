"""A PDF page as words with their places: what its content streams show, by the fonts' own widths and maps of letters.

Coordinates are in points, x to the right and y upwards, as the page is seen. ``pypdf`` parses; this file follows the
text operators (ISO 32000-2, section 9.4).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pypdf.generic import ContentStream, DictionaryObject, IndirectObject
from pypdf.generic._font import Font

from lit_llm.data.documents.pdf_forms import appearances
from lit_llm.data.documents.pdf_objects import UNIT, Matrix, held, matrix_of, numbers, times, value_of

_MAX_DEPTH = 8  # of forms within forms
MAX_WORDS = 200_000  # of a page
RIGHT_TO_LEFT = frozenset(("R", "AL"))


@dataclass(slots=True)
class Word:
    """What is shown without a blank in it. A glyph of a right-to-left script is a word of its own."""

    x0: float
    x1: float
    y: float  # of the baseline
    size: float  # points
    text: str
    turn: int = 0  # quarter turns to the left, of the direction it is written in
    blank: bool = False  # whether a blank was shown before it
    right_to_left: bool = False
    whole: bool = False  # its letters are in the order they are read, whatever their direction


@dataclass(eq=False)
class Page:
    words: list[Word]
    images: int
    unnamed: int  # glyphs whose letters the file does not say
    cut: str = ""  # why not all of it is read; "" where all is
    width: float = 612.0
    height: float = 792.0


@dataclass
class _Text:
    font: Font | None = None
    size: float = 0.0
    spacing: float = 0.0
    word_spacing: float = 0.0
    scale: float = 1.0
    leading: float = 0.0
    rise: float = 0.0


@dataclass
class _State:
    matrix: Matrix = UNIT
    text: _Text = field(default_factory=_Text)


def read_page(page: Any, fonts: dict[Any, Font]) -> Page:
    """Words in the order they are shown.

    Args:
        fonts: those of the pages before, by their place in the file; this page's are added.
    """
    box = [float(value) for value in page.mediabox]
    turn = int(page.get("/Rotate", 0) or 0) % 360
    matrix = {
        90: (0.0, -1.0, 1.0, 0.0, -box[1], box[2]),
        180: (-1.0, 0.0, 0.0, -1.0, box[2], box[3]),
        270: (0.0, 1.0, -1.0, 0.0, box[3], -box[0]),
    }.get(turn, (1.0, 0.0, 0.0, 1.0, -box[0], -box[1]))
    wide, high = box[2] - box[0], box[3] - box[1]
    found = Page([], 0, 0, "", *((high, wide) if turn in (90, 270) else (wide, high)))
    reader = _Reader(page.pdf, found, fonts)
    contents = page.get_contents()
    if contents is not None:
        reader.run(contents.operations, page.get("/Resources"), _State(matrix), 0)
    for form, place in appearances(page):
        reader.draw(form, page.get("/Resources"), times(place, matrix), 0)
    return found


class _Reader:
    def __init__(self, pdf: Any, page: Page, fonts: dict[Any, Font]) -> None:
        self._pdf, self._page, self._fonts = pdf, page, fonts
        self._actual: list[str | None] = []  # of each marked content around: the text that it stands for
        self._replaced: list[Word] = []
        self._blank = False

    def run(self, operations: Sequence[Any], resources: Any, state: _State, depth: int) -> None:
        resources = value_of(resources)
        stack: list[tuple[Matrix, _Text]] = []
        line = here = UNIT
        for operands, operator in operations:
            text = state.text
            if operator == b"q":
                stack.append(
                    (state.matrix, _Text(**{name: getattr(text, name) for name in _Text.__dataclass_fields__}))
                )
            elif operator == b"Q" and stack:
                state.matrix, state.text = stack.pop()
            elif operator == b"cm":
                state.matrix = times(matrix_of(operands), state.matrix)
            elif operator == b"BT":
                line = here = UNIT
            elif operator == b"Tm":
                line = here = matrix_of(operands)
            elif operator in (b"Td", b"TD"):
                x, y = numbers(operands, 2)
                text.leading = -y if operator == b"TD" else text.leading
                line = here = times((1, 0, 0, 1, x, y), line)
            elif operator == b"T*":
                line = here = times((1, 0, 0, 1, 0, -text.leading), line)
            elif operator == b"Tf":
                text.font, text.size = self._font(resources, operands), numbers(operands[1:], 1)[0]
            elif operator in _SETTINGS:
                value = numbers(operands, 1)[0]
                setattr(text, _SETTINGS[operator], value / 100 if operator == b"Tz" else value)
            elif operator == b"Tj" and operands:
                here = self._show(operands[0], text, here, state.matrix)
            elif operator == b"TJ" and operands and isinstance(operands[0], list):
                for one in operands[0]:
                    if isinstance(one, int | float):
                        here = times((1, 0, 0, 1, -float(one) / 1000 * text.size * text.scale, 0), here)
                    else:
                        here = self._show(one, text, here, state.matrix)
            elif operator in (b"'", b'"') and operands:
                if operator == b'"' and len(operands) == 3:
                    text.word_spacing, text.spacing = numbers(operands, 2)
                line = here = times((1, 0, 0, 1, 0, -text.leading), line)
                here = self._show(operands[-1], text, here, state.matrix)
            elif operator == b"Do" and operands:
                self._form(resources, operands[0], state, depth)
            elif operator == b"INLINE IMAGE":
                self._page.images += 1
            elif operator in (b"BDC", b"BMC"):
                self._actual.append(_actual_text(operands, resources))
            elif operator == b"EMC" and self._actual and (actual := self._actual.pop()) is not None:
                self._end_actual(actual)

    def _form(self, resources: Any, name: Any, state: _State, depth: int) -> None:
        form = value_of(held(held(resources, "/XObject"), name))
        if not isinstance(form, DictionaryObject):
            return
        if form.get("/Subtype") == "/Image":
            self._page.images += 1
        elif form.get("/Subtype") == "/Form" and depth < _MAX_DEPTH:
            self.draw(form, resources, state.matrix, depth)
        elif form.get("/Subtype") == "/Form":
            self._page.cut = self._page.cut or f"what is nested deeper than {_MAX_DEPTH} forms is not read"

    def draw(self, form: Any, resources: Any, matrix: Matrix, depth: int) -> None:
        """The words of a form, which is content with resources of its own."""
        matrix = times(matrix_of(value_of(form.get("/Matrix")) or UNIT), matrix)
        own = form.get("/Resources", resources)
        self.run(ContentStream(form, self._pdf).operations, own, _State(matrix), depth + 1)

    def _font(self, resources: Any, operands: Sequence[Any]) -> Font | None:
        fonts = value_of(held(resources, "/Font"))
        name = operands[0] if operands else None
        place = fonts.raw_get(name) if isinstance(fonts, DictionaryObject) and name in fonts else None
        font = value_of(place)
        if not isinstance(font, DictionaryObject):
            return None
        key = (place.idnum, place.generation) if isinstance(place, IndirectObject) else (id(font), self._page)
        if key not in self._fonts:
            self._fonts[key] = Font.from_font_resource(font)
        return self._fonts[key]

    def _show(self, shown: Any, text: _Text, here: Matrix, matrix: Matrix) -> Matrix:
        """Words of one string; where the next one begins."""
        if text.font is None:
            return here
        whole = times(here, matrix)
        size = abs(text.size) * math.hypot(whole[2], whole[3])
        unit = math.hypot(whole[0], whole[1])  # points of the page for one of the text's own
        turn, x, y = _turned(whole, text.rise)
        wide = text.size * text.scale / 1000
        word: Word | None = None
        advance = 0.0
        for letters, width, blank in _glyphs(shown, text.font):
            begin = x + advance * unit
            end = begin + width * wide * unit
            advance += width * wide + (text.spacing + (text.word_spacing if blank else 0.0)) * text.scale
            kind = _kind(letters)
            if kind == "blank":
                word, self._blank = None, True
            elif kind == "unnamed" or not text.font.interpretable:
                self._page.unnamed += 1
            elif word is not None and kind != "right":
                word.text, word.x1 = word.text + letters, end
            elif turn is not None:
                right = kind == "right"
                found = Word(min(begin, end), max(begin, end), y, size, letters, turn, self._blank, right)
                word, self._blank = None if right else found, False
                self._add(found)
        return times((1, 0, 0, 1, advance, 0), here)

    def _add(self, word: Word) -> None:
        if any(actual is not None for actual in self._actual):
            self._replaced.append(word)
        elif len(self._page.words) < MAX_WORDS:
            self._page.words.append(word)
        else:
            self._page.cut = f"of more than {MAX_WORDS:,} words the first are read"

    def _end_actual(self, actual: str) -> None:
        """What is shown inside stands for other text, which the file says in the order it is read."""
        shown, self._replaced = self._replaced, []
        if any(one is not None for one in self._actual):
            self._replaced = shown
            return
        if shown and actual.strip():
            first, last = min(shown, key=lambda one: one.x0), max(shown, key=lambda one: one.x1)
            right = any(map(letters_run_left, actual))
            self._page.words.append(
                Word(first.x0, last.x1, first.y, first.size, actual, first.turn, first.blank, right, whole=True)
            )


_SETTINGS = {b"Tc": "spacing", b"Tw": "word_spacing", b"Tz": "scale", b"TL": "leading", b"Ts": "rise"}


def _glyphs(shown: Any, font: Font) -> Iterator[tuple[str, float, bool]]:
    """(letters, width in thousandths, whether it is the blank that word spacing widens) of each glyph."""
    data = getattr(shown, "original_bytes", shown)
    if isinstance(data, str):
        data = data.encode("latin-1", "replace")
    if not isinstance(data, bytes):
        return
    widths, usual = font.character_widths, font.character_widths.get("default", 500)
    if isinstance(font.encoding, str):
        raw = data.decode(font.encoding, "replace")
        for one in raw:
            letters = font.character_map.get(one, one if not font.character_map else "\ufffd")
            yield letters, widths.get(one, usual), letters == " "
        return
    for byte in data:
        one = font.encoding.get(byte, chr(byte))
        letters = font.character_map.get(one, font.character_map.get(chr(byte), one))
        yield letters, widths.get(chr(byte), widths.get(one, usual)), letters == " "


@cache
def _kind(letters: str) -> str:
    """What a glyph's letters are: blank, unnamed (nobody says which), right (to left), or left."""
    if not letters.strip():
        return "blank"
    if "\ufffd" in letters or all(map(_private, letters)):
        return "unnamed"
    return "right" if letters_run_left(letters) else "left"


def letters_run_left(letters: str) -> bool:
    """Whether letters, or marks on them, are of a script that is written from right to left."""
    return any(unicodedata.bidirectional(one) in RIGHT_TO_LEFT or "\u064b" <= one <= "\u065f" for one in letters)


def _private(letter: str) -> bool:
    return unicodedata.category(letter) in ("Co", "Cc", "Cn")


def _turned(matrix: Matrix, rise: float) -> tuple[int | None, float, float]:
    """Quarter turns of the writing's direction (None: aslant, as a watermark is), and its place once turned back."""
    angle = math.degrees(math.atan2(matrix[1], matrix[0])) % 360
    turn = round(angle / 90) % 4
    if abs((angle - turn * 90 + 180) % 360 - 180) > 10:
        return None, 0.0, 0.0
    x, y = matrix[4] + rise * matrix[2], matrix[5] + rise * matrix[3]
    return (turn, *((x, y), (y, -x), (-x, -y), (-y, x))[turn])


def _actual_text(operands: Sequence[Any], resources: Any) -> str | None:
    properties = value_of(operands[1]) if len(operands) > 1 else None
    if isinstance(properties, str):
        properties = value_of(held(held(resources, "/Properties"), properties))
    actual = properties.get("/ActualText") if isinstance(properties, dict) else None
    return actual if isinstance(actual, str) else None
