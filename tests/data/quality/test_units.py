"""Units and their n-grams against plain Python."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.data.quality import units as module
from lit_llm.data.quality.units import Units, ngrams, ngrams_of_lengths, pieces, units

TEXTS = st.lists(st.text(st.sampled_from("aB é.1中文 ـَم\n"), max_size=30), min_size=1, max_size=6)


def plain(text):
    """The units as strings, one character at a time."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub("[\u064b-\u065f\u0640]", "", text)
    return re.findall(r"[中文]|[^\W中文]+", text)


@given(TEXTS)
def test_equal_units_have_equal_hashes_and_others_have_not(texts):
    found, wanted = units(texts), [plain(text) for text in texts]
    assert found.counts.tolist() == [len(words) for words in wanted]
    names = [word for words in wanted for word in words]
    by_name = dict(zip(names, found.hashes.tolist(), strict=True))
    assert [by_name[name] for name in names] == found.hashes.tolist()
    assert len(set(by_name.values())) == len(by_name)


@given(TEXTS, st.integers(1, 4), st.booleans())
def test_ngrams_are_those_of_each_text(texts, n, short):
    found = ngrams(units(texts), n, short=short)
    wanted = []
    for text in texts:
        words = plain(text)
        runs = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
        wanted.append(runs or ([("short", *words)] if short and words else []))
    assert found.counts.tolist() == [len(runs) for runs in wanted]
    names = [run for runs in wanted for run in runs]
    by_name = dict(zip(names, found.hashes.tolist(), strict=True))
    assert [by_name[name] for name in names] == found.hashes.tolist()
    assert len(set(by_name.values())) == len(by_name)


@given(TEXTS, st.sets(st.integers(1, 6), min_size=1))
def test_runs_of_several_lengths_are_those_of_each(texts, lengths):
    of = units(texts)
    for length, found in ngrams_of_lengths(of, lengths).items():
        alone = ngrams(of, length, short=False)
        assert found.hashes.tolist() == alone.hashes.tolist() and found.bounds.tolist() == alone.bounds.tolist()
    ascii_ones = [text.encode("ascii", "replace").decode() for text in texts]  # which have tables of their own
    apart, beside = units(ascii_ones), units([*ascii_ones, "中"])
    assert apart.hashes.tolist() == beside.hashes.tolist()[:-1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Tenant, pays!", "the tenant pays"),
        ("Cafe\u0301 ﬁne", "CAFÉ fine"),
        ("ＡＢＣ １２", "abc 12"),
        ("مُحَمَّدٌ ذهـــب", "محمد ذهب"),
        ("zero\u200bwidth", "zerowidth"),
        ("租户，付租金。", "租户 付租金"),
        ("Straße", "STRASSE"),
    ],
)
def test_what_makes_no_difference(one, other):
    assert units([one]).hashes.tolist() == units([other]).hashes.tolist()
    assert units([one + " x"]).hashes.tolist() != units([other]).hashes.tolist()


def test_a_long_text_in_pieces_loses_no_ngram(monkeypatch):
    words = [f"w{n}" for n in range(3000)]
    text = " ".join(words)
    whole = set(ngrams(units([text]), 5).hashes.tolist())
    monkeypatch.setattr(module, "AT_ONCE", 2000)
    monkeypatch.setattr(module, "TOGETHER", 2000)
    monkeypatch.setattr(module, "OVERLAP", 100)
    portions = list(pieces(["short", text, "", "end"]))
    assert max(sum(map(len, portion)) for _, portion in portions) <= 2000
    assert np.unique(np.concatenate([numbers for numbers, _ in portions])).tolist() == [0, 1, 2, 3]
    parts = [part for numbers, portion in portions for n, part in zip(numbers, portion, strict=True) if n == 1]
    assert whole <= set(ngrams(units(parts), 5).hashes.tolist())


def test_nothing_at_all():
    assert units(["", " .,"]) == Units(pytest.approx([]), pytest.approx([0, 0, 0]))
    assert len(ngrams(units([""]), 3).hashes) == 0
