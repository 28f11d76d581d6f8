"""Model text as safe HTML: everything escaped, and the characters that hide or reorder text made visible.

A right-to-left override (U+202E) makes "gpj.exe" of "exe.jpg" on the screen, a zero-width space hides a word from
a search (Unicode Technical Report 36; Boucher and Anderson 2021, "Trojan Source"). Each such character is shown by
its number in a ``<span class="control">``, which the script counts as one code point when it turns a selection into
offsets in the raw text. Line feeds and tabs stay as they are; so do the joiners U+200C and U+200D, which Persian and
emoji need.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from markupsafe import Markup, escape

_RANGES = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, the carriage return among them: HTML would turn it into a line feed
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # invisible, and the bidirectional controls
    "\ufff9-\uffff\ud800-\udfff"  # annotation marks, the replacement character, non-characters, halves of a pair
    "\U000e0000-\U000e007f"  # tags: a whole hidden alphabet
)
CONTROL = re.compile(f"[{_RANGES}]")

FOLDED_ABOVE = 2500
"""Characters; a longer text is shown folded, with a switch that unfolds it."""


def shown(text: str) -> Markup:
    """The text as HTML that shows every character and runs nothing."""
    return Markup(CONTROL.sub(lambda match: _visible(match.group()), str(escape(text))))


def plain(text: str) -> str:
    """The text without characters that hide or reorder it: for names and short lines inside other sentences."""
    return CONTROL.sub(lambda match: f"[{_number(match.group())}]", text)


def is_long(text: str) -> bool:
    return len(text) > FOLDED_ABOVE or text.count("\n") > 40


def storable(text: str) -> str:
    """What a person typed, as every database takes it: no NUL, no half of a surrogate pair, one kind of line end."""
    text = text.replace("\r\n", "\n").replace("\x00", "")
    return text.encode("utf-8", "replace").decode()


@cache
def _visible(character: str) -> Markup:
    name = unicodedata.name(character, "control character").lower()
    return Markup('<span class="control" title="{}">{}</span>').format(name, _number(character))


def _number(character: str) -> str:
    return f"U+{ord(character):04X}"
