"""Each quality rule, and the sets, on texts that keep and break them."""

import random
import tracemalloc

import pytest

from lit_llm.data.quality.measured_text import MeasuredText
from lit_llm.data.quality.rules import NAMES, SETS, QualityRules, broken, rules
from lit_llm.errors import UserError

ENGLISH = "The tenant has to pay the rent of the flat on the first day, and that is to be done with a transfer. "
ARABIC = "يدفع المستأجر إيجار الشقة في اليوم الأول من كل شهر ويكون ذلك بتحويل إلى حساب المالك في المصرف. "
CHINESE = "租户应当在每月第一天支付租金，并且通过银行转账的方式付给房东本人。"


BREAKS = {
    "min_words": (5, "one two three four", "one two three four five"),
    "max_words": (2, "one two three", "one two"),
    "min_mean_word_length": (3, "a b c dd", "abc def"),
    "max_mean_word_length": (10, "abcdefghijklmnop", "abc"),
    "max_symbol_ratio": (0.1, "# a # b", "a b c d"),
    "max_bullet_lines": (0.9, "- a\n• b", "- a\nb"),
    "max_ellipsis_lines": (0.3, "a...\nb…\nc", "a\nb\nc\nd..."),
    "min_alphabetic_words": (0.8, "1 2 3 four", "one two 三 أربعة 5"),
    "min_stop_words": (2, "the cat sat", "the cat and that"),
    "max_duplicate_lines": (0.3, "a\na\nb", "a\nb\nc\nd\na"),
    "max_duplicate_paragraphs": (0.3, "a\n\na\n\nb", "a\n\nb\n\nc\n\na"),
    "max_duplicate_line_characters": (0.2, "long line here\nlong line here\nx", "a\na\nlong line here"),
    "max_duplicate_paragraph_characters": (0.2, "long one\n\nlong one\n\nx", "a\n\na\n\nlong line here"),
    "max_top_2gram": (0.2, "a b c a b d a b", "a b c d e f"),
    "max_top_3gram": (0.18, "a b c x a b c y", "a b c d e f"),
    "max_top_4gram": (0.16, "a b c d x a b c d", "a b c d e f"),
    "min_sentences": (3, "One. Two", "One. Two! هل ثلاثة؟"),
    "max_curly_brackets": (0, "a { b", "a b"),
    "max_placeholders": (0, "Lorem Ipsum dolor", "lorem"),
} | {
    f"max_repeated_{n}grams": (0.1, " ".join([*"abcdefghijk"[:n], "x", *"abcdefghijk"[:n]]), " ".join("abcdefghijklm"))
    for n in range(5, 11)
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_drops_what_breaks_it_and_nothing_else(name):
    limit, bad, good = BREAKS[name]
    only = QualityRules(**{name: limit})
    assert broken(bad, only, lambda _: True)[0] == name
    assert broken(good, only, lambda _: True) is None
    assert broken(bad, QualityRules(), lambda _: True) is None


def test_repeated_runs_against_a_count_by_hand():
    # 12 characters, of which the run of five occurs twice: 10 of 11 characters.
    assert broken("a b c d e x a b c d e", QualityRules(max_repeated_5grams=0.5), bool) == (
        "max_repeated_5grams",
        pytest.approx(10 / 11),
    )
    # The run "a b" twice, of 8 characters in all.
    assert broken("a b c d a b e f", QualityRules(max_top_2gram=0.1), bool) == ("max_top_2gram", pytest.approx(4 / 8))


def test_runs_against_plain_tuples_of_words():
    rng = random.Random(2)
    for _ in range(60):
        words = rng.choices(["a", "bb", "ccc", "dddd"], k=rng.randint(0, 40))
        of, characters = MeasuredText(" ".join(words), bool), max(1, sum(map(len, words)))
        for n in (2, 3, 4, 5, 6):
            runs = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
            most = max(map(runs.count, runs), default=0)
            longest = max((sum(map(len, run)) for run in runs if runs.count(run) == most), default=0)
            assert of.top(n) == pytest.approx(longest * most / characters if most > 1 else 0)
            inside = {at + k for at, run in enumerate(runs) if runs.count(run) > 1 for k in range(n)}
            assert of.repeating(n) == pytest.approx(sum(len(words[at]) for at in inside) / characters)


def test_a_long_text_is_measured_in_little_memory():
    of = MeasuredText(" ".join(f"w{number % 49_999}" for number in range(600_000)), bool)
    tracemalloc.start()
    assert of.repeating(10) == 1 and of.top(4) < 0.001
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 600_000  # bytes a word, where a tuple of ten words alone takes 120


@pytest.mark.parametrize("text", [ENGLISH, ARABIC, CHINESE])
def test_good_texts_of_any_script_keep_gopher_s_rules(text):
    if text is CHINESE:
        places = ("北京", "上海", "广州", "深圳", "杭州", "南京", "武汉")
        text = "\n".join(
            f"{place}的法院在去年审理了许多不同类型的{kind}案件。"
            for place, kind in zip(places, "房车税债婚企商", strict=True)
        )
    else:
        words = text.split()
        text = "\n".join(" ".join([*words[n:], *words[:n][::-1]]) for n in range(0, 12, 3))
    english = text.startswith("The")
    assert broken(text, rules({"set": "gopher", **dict.fromkeys(OFF)}), lambda _: english) is None
    assert broken("buy now " * 60, rules("gopher"), lambda _: False)[0].startswith("max_")


OFF = [name for name in SETS["gopher"] if "repeated" in name or "top" in name]  # the four sentences say the same


def test_what_is_asked_for():
    assert rules(None) is rules("") is None
    assert rules("c4") == QualityRules(**SETS["c4"])
    assert rules(["gopher", "c4"]) == QualityRules(**SETS["gopher"], **SETS["c4"])
    altered = rules({"set": "gopher", "min_words": 10, "max_words": None})
    assert altered.min_words == 10 and altered.max_words is None and altered.max_symbol_ratio == 0.1
    for asked, line in (
        ("gofer", "data.quality=gofer: is no set of rules; known are gopher, c4"),
        ({"min_word": 3}, "data.quality.min_word: is no rule; did you mean min_words?"),
        ({"min_words": "few"}, "data.quality.min_words=few: a number from 0 is needed"),
        ({"min_words": True}, "data.quality.min_words=True: a number"),
    ):
        with pytest.raises(UserError) as error:
            rules(asked)
        assert str(error.value).startswith(line)
