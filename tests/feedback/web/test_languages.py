"""Every sentence of the pages is there in every language, with the same places to fill."""

import re
from pathlib import Path

import pytest

from lit_llm.feedback.store.flag_kinds import FLAG_KINDS
from lit_llm.feedback.web import languages as module
from lit_llm.feedback.web.languages import choose, languages

FOLDER = Path(module.__file__).parent


def places(sentence):
    return sorted(re.findall(r"\{\w+\}", sentence))


@pytest.mark.parametrize("code", [code for code in languages() if code != "en"])
def test_a_catalogue_is_complete(code):
    english, other = languages()["en"].words, languages()[code].words
    assert set(other) == set(english)
    assert {key: places(text) for key, text in other.items()} == {key: places(text) for key, text in english.items()}
    same = [key for key in english if english[key] == other[key]]
    assert not same, f"not translated: {same}"


def test_every_sentence_that_is_asked_for_exists_and_every_one_is_asked_for():
    source = "".join(f.read_text() for f in [*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html")])
    script = "".join(f.read_text() for f in FOLDER.glob("static/*.js"))
    asked = set(re.findall(r"""(?:\bt|say)\(["']([\w.]+)["'][,)]""", source))
    asked |= {f"script.{name}" for name in re.findall(r"words\.(\w+)", script)}
    words = set(languages()["en"].words)
    assert asked <= words, asked - words
    put_together = ("flag.", "meaning.", "scale.", "severity.", "skip.", "recent.", "role.", "agreement.")
    quoted = set(re.findall(r"""["']([a-z]+\.[\w.]+)["']""", source))  # through a table: refusals, notices
    unused = {
        key for key in words - asked - quoted if not key.startswith((*put_together, "admin.export.", "admin.role."))
    }
    assert unused == {"language.name"} - quoted


def test_flags_have_their_labels():
    english = languages()["en"]
    for kind, (label, explanation) in FLAG_KINDS.items():
        assert (english.flag(kind), english.flag_meaning(kind)) == (label, explanation)
    assert english.flag("made_here") == "made here"


def test_values_are_taken_as_they_are():
    assert "{minutes} {0.x}" in languages()["en"].say("card.up", card="{minutes} {0.x}")


def test_the_language_is_the_chosen_one_then_the_browsers():
    assert choose("ar").direction == "rtl"
    assert choose("", "fr-CH, ar;q=0.9, en;q=0.8").code == "ar"
    assert choose("xx", "yy").code == "en"
