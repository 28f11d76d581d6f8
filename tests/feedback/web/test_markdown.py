"""Invariant: Markdown is shown, every character stays, and no markup of the text's own comes through."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.feedback.web import hostile_text
from lit_llm.feedback.web.hostile_text import CONTROL
from lit_llm.feedback.web.markdown import rendered
from tests.feedback.web.test_hostile_text import raw

PIECES = st.sampled_from([
    "**", "*", "_", "__", "~~", "`", "```", "```js", "\n", "\r\n", " ", "    ", "# ", "- ", "1. ", "> ", "|", "---",
    "[", "](", ")", "![x](data:text/html,<script>)", "[a](javascript:alert(1))", "<script>", "</div>",
    "<img src=x onerror=a>", "&lt;", "\"", "'", "word", "كلمة", "מילה", "字", "👩‍🚀",
    "\u202e", "\u200b", "\x00", "\ud800",
])  # fmt: skip
TAGS = re.compile(
    r'<(?:/?(?:div|span)|div class="md [a-z0-9]+" dir="(?:auto|ltr)"|span class="[a-z]+"(?: dir="ltr")?)>'
)


def text_of(markup):
    """As ``raw``, which looks for the marks of control characters with their ends."""
    marks = re.compile(r'<span class="control" title="[^"]*">(U\+[0-9A-F]+)</span>')
    kept = marks.sub(lambda mark: f"\x01{mark[0]}\x02", markup)
    parts = re.split("\x01(.*?)\x02", kept)
    return raw("".join(part if n % 2 else TAGS.sub("", part) for n, part in enumerate(parts)))


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(st.characters(), max_size=60))
def test_every_character_stays_and_no_tag_comes_through(text):
    markup = str(rendered(text))
    assert text_of(markup) == text
    assert not CONTROL.search(markup)
    control = re.compile(r'<span class="control" title="[^"<>]*">')
    assert not re.search("[<>]", TAGS.sub("", control.sub("", markup))), "only our own elements"


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("## Two", '<div class="md h2" dir="auto"><span class="sign">## </span>Two</div>'),
        ("a `x < y`", '<span class="code" dir="ltr"><span class="sign">`</span>x &lt; y<span class="sign">`</span>'),
        ("[go](javascript:a)", '<span class="address" dir="ltr">(javascript:a)</span>'),
        ("snake_case_name 2 * 3 * 4", '<div class="md line" dir="auto">snake_case_name 2 * 3 * 4</div>'),
        ("```\n**a**", '<span class="sign">```\n</span>**a**</div>'),
    ],
)  # fmt: skip
def test_what_is_shown_as_what(text, markup):
    assert markup in rendered(text)


@pytest.mark.parametrize("piece", ["**a ", "[", "`a", "~~", "_a", "[a](", "*" * 7 + "a", "> " * 3])
def test_a_hostile_text_takes_no_long_time(piece):
    for text in (piece * (60_000 // len(piece)), (piece * 500 + "\n") * 40):
        began = time.process_time()
        rendered(text)
        assert time.process_time() - began < 5


@pytest.mark.parametrize("piece", ["`a ", "**a ", "`a` ", "\n", "\u202e", "*_~~a~~_* "])
def test_the_time_grows_in_step_with_the_text(piece):
    def seconds(lines):
        began = time.process_time()
        rendered((piece * 100 + "\n") * lines)
        return time.process_time() - began

    seconds(5)
    assert min(seconds(80) for _ in range(3)) < 24 * min(seconds(10) for _ in range(3)), "8 in step, 64 by the square"


def test_a_text_of_hidden_characters_costs_little():
    """The mark of a character is made once."""
    hostile_text._visible.cache_clear()
    rendered("\u202e" * 60_000)
    assert hostile_text._visible.cache_info().misses == 1
