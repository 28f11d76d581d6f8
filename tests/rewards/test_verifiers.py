"""Verifiers: right answers however they are written get 1, wrong ones 0, and what cannot be verified NaN."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.numbers import last_number, only_number, quantity
from lit_llm.rewards.options import FormatOptions
from lit_llm.rewards.regular_expression import RegularExpression
from lit_llm.rewards.verifiers import ExactAnswer, Format, Length, WordCount, fits_template
from lit_llm.text.bpe import train_bpe

ASKED = [(Message("user", "How many?"),)]


TERMS = [("5x", "5"), ("3\\pi", "3"), ("3 \\pi", "3"), ("x^2", "2"), ("x^{2}", "2"), ("\\sqrt{9}", "9"), ("12_3", "12")]
TERMS += [("3!", "3"), ("2\\sqrt{3}", "2"), ("\\frac{\\sqrt{3}}{2}", "2"), ("x>5", "5"), ("x+5", "5"), ("5 < x", "5")]
"""What has a number in it and is another one, and that number."""


def exact(completion, answer, **options):
    return ExactAnswer(**options)(ASKED, [completion], rows=[{"answer": answer}])[0]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("48/2 = <<48/2=24>>24 clips in May.\n#### 72", "72"),
        ("So she sold 72 clips.", "72"),
        ("#### 1,234,567", "1234567"),
        ("It costs $1,000.00 in all", "1000"),
        ("#### -$5", "-5"),
        ("The change is \u22123 degrees.", "-3"),
        ("3/4 of a cup", "0.75"),
        ("\\boxed{\\frac{3}{4}}", "3/4"),
        ("1 3/4 miles", "1.75"),
        ("She has 50% left", "50"),
        ("She has 50% left", "1/2"),
        ("0.5 of it", "50%"),
        ("about 1.5e3 people.", "1500"),
        ("0.333", "1/3"),
        ("First 12, then 3. #### 7 full boxes", "7"),
        ("#### She needs **7 pieces a day**.", "7"),
        ("So 20+4 = <<20+4=24>>24 clips.", "24"),
        ("<answer>24</answer>", "24"),
        ("In all \\(24\\).", "24"),
        ("\\boxed{\\$18.90}", "18.9"),
        ("\\boxed{3\\pi}", "3\\pi"),
        ("\\boxed{90^\\circ}", "$90^\\circ$"),
        ("\\boxed{(1, 2]}", "(1, 2]"),
        ("\\boxed{B}", "(B)"),
        ("It is Apollo 11.\n#### Apollo 11", "Apollo 11"),
        ("It was Apollo 11", "11"),
        ("#### 5 million", "5 million"),
        ("\\boxed{5} is right, not 6", "5"),
        ("I think it is\n**Paris**.", "paris"),
        ("#### The  Nile", "the nile"),
        ("\\boxed{x^{2} + 1}", "x^{2} + 1"),
        ("72", "work is shown\n#### 72"),
    ],
)
def test_right_answers_get_1(completion, answer):
    assert exact(completion, answer, tolerance=1e-3 if answer == "1/3" else 0.0) == 1.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("72, or rather 71", "72"),
        ("#### 71\nwait, 72?", "72"),
        ("-5", "5"),
        ("10-5", "-5"),
        ("1,234", "12341"),
        ("0.5", "5%"),
        ("no number", "3"),
        ("", "3"),
        ("x3", "3"),
        ("1/0", "0"),
        ("Paris or London", "Paris"),
        ("", "Paris"),
        ("9" * 400, "9"),
        ("#### 7 of the 9 boxes", "7"),
        ("\\boxed{5 or 6}", "5"),
        ("#### Soyuz 11", "Apollo 11"),
        ("Soyuz 11", "Apollo 11"),
        ("#### 11", "Apollo 11"),
        ("\\boxed{5 million}", "5"),
        ("\\boxed{(1, 2]}", "[1, 2)"),
        *((f"\\boxed{{{term}}}", n) for term, n in TERMS),
        *((f"The answer is {term}", n) for term, n in TERMS),
        *((f"\\boxed{{{n}}}", term) for term, n in TERMS),
        *((f"The answer is {n}.", term) for term, n in TERMS),
    ],
)
def test_wrong_answers_get_0(completion, answer):
    assert exact(completion, answer) == 0.0


def test_an_unmarked_answer_counts_unless_it_must_be_marked():
    assert exact("it is 5", "5") == 1.0 and exact("it is 5", "5", strict=True) == 0.0
    assert exact("#### 5", "5", strict=True) == 1.0 == exact("\\boxed{5}", "5", strict=True)


def test_without_an_answer_there_is_nothing_to_verify_by():
    scores = ExactAnswer(tag="gold")(ASKED * 3, ["5"] * 3, rows=[{"answer": "5"}, {"gold": " "}, {"gold": "5"}])
    assert math.isnan(scores[0]) and math.isnan(scores[1]) and scores[2] == 1.0
    assert all(math.isnan(exact("", empty)) for empty in ("", "####", "\\boxed{ }", "$$", "?"))


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**6 - 1))
def test_a_number_is_itself_however_it_is_written(whole, cents):
    written = f"{whole:,}.{cents:06d}"
    value = whole + (-1 if whole < 0 else 1) * cents / 10**6
    for text in (written, f"${written}", f"the answer is {written} dollars.", written.replace("-", "\u2212")):
        assert float(last_number(text).value) == pytest.approx(value, rel=1e-12)
    assert quantity(f"{written} apples").equals(last_number(written)) and only_number("3 of 4") is None


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_texts_get_0_or_1_or_nan(completion, answer):
    score = exact(completion, answer)
    assert score in (0.0, 1.0) or (math.isnan(score) and not re.search(r"\w", answer.rpartition("####")[2]))


def test_length_in_words_characters_and_tokens(tmp_path):
    assert Length(least=2, most=3)(ASKED * 4, ["a", "a b", "a b c", "a b c d"]) == [0.0, 1.0, 1.0, 0.0]
    assert Length(most=2, margin=4)(ASKED * 4, ["a b", "a b c", "a b c d", "a " * 9]) == [1.0, 0.75, 0.5, 0.0]
    assert Length(unit="characters", least=3)(ASKED * 2, ["ab", "a b"]) == [0.0, 1.0]
    tokenizer = train_bpe(["hello world"] * 20, vocab_size=300)
    tokenizer.save(tmp_path / "model")
    counted = len(tokenizer.encode("hello world"))
    assert counted < 11  # characters
    inside = Length(unit="tokens", least=counted, most=counted, tokenizer=str(tmp_path / "model"))
    assert inside(ASKED * 2, ["hello world", "hello world hello"]) == [1.0, 0.0]


def test_words_are_counted_against_the_tag_or_the_prompt():
    prompts = [(Message("user", f"Answer with exactly {n} words: why?"),) for n in (3, 3, 4)] + ASKED
    rows = [{}, {"words": "2"}, {}, {}]
    scores = WordCount()(prompts, ["one two  three.", "one two", "one two three", "one"], rows=rows)
    assert scores[:3] == [1.0, 1.0, 0.0] and math.isnan(scores[3])
    near = WordCount(partial=True)
    assert near(prompts[2:3] * 2, ["one two three", "a b c d"], rows=[{}] * 2) == [0.75, 1.0]
    assert near.latest == {"exact": [0.0, 1.0]}
    assert WordCount(partial=True)(prompts[:1], ["one " * 9], rows=[{}]) == [0.0]
    assert math.isnan(WordCount()(ASKED, ["one"], rows=[{"words": "many"}])[0])


def test_format_of_an_answer():
    template = Format(template="<think>{why}</think> <answer>{what}</answer>")
    good = "<think>because\nof it</think>\n<answer>42</answer>"
    bad = [
        "<answer>42</answer>",
        good.replace("42", " "),
        good + "!",
        good.replace("because", "<think>because"),
        "<answer>42</answer><think>why</think>",
    ]
    assert template(ASKED * 6, [good, *bad]) == [1.0, 0, 0, 0, 0, 0]
    both = Format(contains=["Yes", "because"], json=True)
    assert both(ASKED * 3, ["Yes", "Yes because", '{"Yes": "because"}']) == [1 / 3, 2 / 3, 1.0]
    assert Format(contains=["Yes", "No"], all_or_nothing=True)(ASKED * 2, ["Yes", "Yes No"]) == [0.0, 1.0]
    assert Format(json=True)(ASKED * 2, ["[" * 100_000, json.dumps({"a": [1]})]) == [0.0, 1.0]


@given(st.lists(st.text("xyz \n", min_size=1).filter(str.strip), min_size=2, max_size=2))
def test_what_is_built_by_a_template_fits_it(free):
    assert fits_template("Say {} and {}.".format(*free), FormatOptions(template="Say {a} and {b}.").pieces())
    assert not fits_template(f"Say {free[0]} and.", FormatOptions(template="Say {a} and {b}.").pieces())


def test_a_regular_expression_is_searched_and_a_search_that_never_ends_is_not_verified():
    assert RegularExpression(pattern=r"\bcats?\b")(ASKED * 3, ["a cat", "concat", "cats\n\ud800"]) == [1.0, 0.0, 1.0]
    assert RegularExpression(pattern="a+", where="fullmatch")(ASKED * 2, ["aa", "aab"]) == [1.0, 0.0]
    slow = RegularExpression(pattern="(a|a)*b", where="match", seconds=2.0)  # on a busy machine the others wait too
    scores = slow(ASKED * 3, ["ab", "a" * 60, "aab"])
    assert scores[0] == scores[2] == 1.0 and math.isnan(scores[1])


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("STARTING_SECONDS", 0.0, "no answer in 0 s"),
        ("sys.executable", "/no/such/python", "No such file"),
        ("sys.executable", "/bin/false", ""),
    ],
)
def test_a_search_that_cannot_be_started_is_said_in_one_line(place, value, why, monkeypatch):
    monkeypatch.setattr(f"lit_llm.rewards.regular_expression.{place}", value)
    with pytest.raises(UserError, match=rf"^reward.pattern: a: the search could not be started.*{why}") as caught:
        RegularExpression(pattern="a")(ASKED, ["a" * 1_000_000])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactAnswer(tolerance=-1.0), "tolerance: -1.0"),
        (lambda: Length(), "both null"),
        (lambda: Length(unit="lines", most=1), "unit: lines"),
        (lambda: Length(least=3, most=2), "least=3, reward.most=2"),
        (lambda: Length(most=2, margin=-1), "margin: -1"),
        (lambda: Length(unit="tokens", most=1), "tokenizer: null"),
        (lambda: WordCount(pattern="words"), "has no group"),
        (lambda: WordCount(pattern="("), "no regular expression"),
        (lambda: Format(), "asks for nothing"),
        (lambda: Format(contains="Yes"), "contains: 'Yes'"),
        (lambda: Format(template="{a}{b}!"), "nothing between"),
        (lambda: Format(template="text"), "needs fixed text and at least one"),
        (lambda: RegularExpression(pattern="("), r"pattern: \( is no regular expression"),
        (lambda: RegularExpression(pattern="a", where="find"), "where: find"),
        (lambda: RegularExpression(pattern="a", seconds=0.0), "seconds: 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(make, message):
    with pytest.raises(UserError, match=message):
        make()
