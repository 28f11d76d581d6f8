"""Texts that find where two tokenizers differ: words of several scripts, blanks, digits, any character of Unicode."""

from __future__ import annotations

import random
import unicodedata

_WORDS = (  # noqa: SIM905
    "the The house isn't We'LL I'd 2024 3.14 1,000,000 x==10 def foo(bar): <b>bold</b> https://a.b/c?d=e naïve Straße "
    "Ελλάδα Привет мир שלום مرحبا لغة نَصّ हिन्दी ไทย 中文 日本語 한국어 🙂 👩‍👩‍👧 é e\u0301 ﬁ ½ ² Ⅷ ٣ ०"
).split()
_BETWEEN = (" ", "", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "   ", "\u00a0", "\u3000", "-", "...", "'", '"', "'s ")


def random_texts(count: int, composed: bool = False, seed: int = 0) -> list[str]:
    """``composed``: in Unicode's composed form (NFC), for tokenizers that bring texts into it: llama.cpp does not.

    No character that Unicode has not assigned, is private, or a half surrogate: their classes differ between versions.
    """
    draw = random.Random(seed)
    texts = ["".join(_part(draw) + draw.choice(_BETWEEN) for _ in range(draw.randrange(1, 24))) for _ in range(count)]
    return [unicodedata.normalize("NFC", text) for text in texts] if composed else texts


def _part(draw: random.Random) -> str:
    if draw.random() < 0.7:
        return draw.choice(_WORDS)
    while True:
        character = chr(
            draw.choice((draw.randrange(32, 0x600), draw.randrange(0x600, 0x3000), draw.randrange(0x3000, 0x1F700)))
        )
        if unicodedata.category(character) not in ("Cn", "Co", "Cs", "Cc"):
            return character
