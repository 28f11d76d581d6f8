"""Languages, and scripts where no package tells languages apart."""

import pytest

from lit_llm.data.quality import languages
from lit_llm.errors import UserError

SAID = {
    "en": "The tenant pays the rent on the first day of every month.",
    "de": "Der Mieter zahlt die Miete am ersten Tag jedes Monats.",
    "ar": "يدفع المستأجر الإيجار في اليوم الأول من كل شهر.",
    "fa": "مستاجر اجاره را در روز اول هر ماه پرداخت می‌کند.",
    "zh": "租户每月第一天支付租金。",
    "ja": "借主は毎月一日に家賃を支払います。",
    "ru": "Арендатор платит арендную плату в первый день каждого месяца.",
    "th": "ผู้เช่าจ่ายค่าเช่าในวันแรกของทุกเดือน",
}
SCRIPTS = {
    "en": "Latn",
    "de": "Latn",
    "ar": "Arab",
    "fa": "Arab",
    "zh": "Hani",
    "ja": "Jpan",
    "ru": "Cyrl",
    "th": "Thai",
}


@pytest.fixture
def by_script(monkeypatch):
    monkeypatch.setattr(languages, "_identifier", lambda: None)


def test_languages_are_told_apart():
    pytest.importorskip("py3langid")
    assert {code: languages.language(text) for code, text in SAID.items()} == {code: code for code in SAID}
    assert languages.language("x = 1") == languages.language("") == languages.UNKNOWN


@pytest.mark.usefixtures("by_script")
def test_scripts_are_told_apart():
    assert {code: languages.language(text) for code, text in SAID.items()} == SCRIPTS
    assert languages.script(SAID["ar"] + " " + SAID["en"][:20]) == "Arab"


@pytest.mark.parametrize(
    ("found", "asked", "kept"),
    [
        ("en", ["en"], True), ("de", ["en"], False), ("de", ["all"], True), ("und", ["en"], True), ("de", [], True),
        ("Latn", ["en"], True), ("Arab", ["en"], False), ("Arab", ["fa"], True), ("Jpan", ["zh"], False),
    ],
)  # fmt: skip
def test_which_are_kept(found, asked, kept):
    assert languages.wanted(found, asked) is kept


def test_what_is_no_list_of_languages():
    languages.checked([])
    languages.checked(["en", "ar", "all"])
    for asked in ("en", ["English"], ["EN"], [3]):
        with pytest.raises(UserError, match=r"data\.languages"):
            languages.checked(asked)
