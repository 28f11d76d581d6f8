"""Text that is shown runs nothing, hides nothing and loses nothing."""

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from lit_llm.feedback.web.hostile_text import CONTROL, is_long, plain, shown, storable


def raw(markup):
    """The text that the script's offsets count: each mark of a control character is that character."""
    parts = re.split(r'<span class="control" title="[^"]*">U\+([0-9A-F]+)</span>', markup)
    texts, numbers = parts[::2], parts[1::2]
    return "".join(html.unescape(text) + chr(int(n, 16)) for text, n in zip(texts, [*numbers, "0"], strict=True))[:-1]


@given(st.text(st.characters(), max_size=60))
def test_every_character_comes_back_and_none_can_hide(text):
    markup = str(shown(text))
    assert raw(markup) == text
    assert not CONTROL.search(markup) and not CONTROL.search(plain(text))
    assert not re.search(r'<(?!span class="control" title="[^"<>]*">U\+|/span>)', markup)
    assert markup.count('"') == 4 * len(CONTROL.findall(text))


def test_bidirectional_overrides_are_named():
    assert 'title="right-to-left override">U+202E</span>gpj' in shown("evil\u202egpj.exe")
    assert plain("Ada\u202e") == "Ada[U+202E]"


def test_arabic_persian_and_emoji_stay_as_they_are():
    text = "می‌خواهم\tسلام\n👩‍🚀"
    assert str(shown(text)) == text


@given(st.text(st.characters(), max_size=40))
def test_what_is_stored_is_text_for_every_database(text):
    kept = storable(text)
    kept.encode()
    assert "\x00" not in kept and "\r\n" not in kept
    assert storable(kept) == kept


def test_long_texts_are_folded():
    assert is_long("x" * 2501) and is_long("x\n" * 41) and not is_long("x" * 2500)
