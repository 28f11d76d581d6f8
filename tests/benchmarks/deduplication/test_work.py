"""The generated pairs are what they are said to be, and what is found is counted rightly."""

import pytest
from benchmarks.deduplication.pairs import ALTERED, corpus
from benchmarks.deduplication.work import Search, Settings, datasketch, here, measured

from lit_llm.errors import UserError


def test_the_same_seed_makes_the_same_texts_of_all_kinds():
    made = corpus(60, 100, seed=4)
    assert made == corpus(60, 100, seed=4) and made != corpus(60, 100, seed=5)
    assert len(made.texts) >= 220 and len(made.pairs) == len(made.kinds) == 60 and set(made.kinds) == set(ALTERED)
    assert all(made.texts[one] != made.texts[other] for one, other in made.pairs)
    letters = set("".join(made.texts))
    assert {"\u4e00", "\u0627"} <= letters


def test_recall_and_precision():
    made = corpus(10, 5, seed=1)
    pairs = {(min(pair), max(pair)) for pair in made.pairs}
    half = set(sorted(pairs)[:5])
    wrong = next((0, n) for n in range(1, 25) if (0, n) not in pairs)
    found = measured(made, half | {wrong})
    assert found["recall"] == 0.5 and found["precision"] == pytest.approx(5 / 6)
    assert measured(made, set())["precision"] == 0.0


def test_a_contestant_finds_the_pairs():
    contestant = Search(40, 60, 0, 0.8, here)
    contestant()
    assert contestant.units > 0.05 and contestant.numbers()["recall"] >= 0.95
    pytest.importorskip("datasketch")
    assert measured(contestant.made, datasketch(contestant.made.texts, 0.8))["recall"] > 0.5


def test_settings_that_make_no_sense():
    for values in ({"pairs": 0}, {"others": -1}, {"threshold": 1.5}, {"peers": "all"}):
        with pytest.raises(UserError, match=next(iter(values))):
            Settings(**values)
