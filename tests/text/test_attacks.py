"""Attacks are made of the answer, fit where they must, and come again for the same seed."""

import pytest

from lit_llm.records import Message
from lit_llm.text.attacks import (
    MADE,
    REPEATS,
    TRAINING,
    VALIDATION,
    answers_of_others,
    attacks,
    attacks_of,
    first_sentence,
    repeated,
)

PROMPTS = [(Message("user", f"q{n}"),) for n in range(4)]
ANSWERS = ["It is a cat. It purrs.", "No.", "It is a dog! Yes", "سطر أول؟ سطر ثان"]


def fits(_, text):
    return len(text) <= 60


def test_every_attack_on_every_prompt():
    found = attacks(PROMPTS, ANSWERS, fits)
    assert list(found) == list(MADE) and all(len(texts) == 4 for texts in found.values())
    assert found["empty"] == [""] * 4
    assert found["long"][0] == "It is a cat. It purrs. It is a cat. It purrs."
    assert found["long"][1] == " ".join(["No."] * 15)  # 59 characters; once more is 63
    assert found["repeated"] == [None, " ".join(["No."] * REPEATS), None, None]
    assert found["sentinels"] == [None] * 4 and "constant" not in found  # too long for this reward; made of scores
    assert set(found["shuffled"]) <= set(ANSWERS)
    assert all(one != own for one, own in zip(found["shuffled"], ANSWERS, strict=True))
    assert len(found["gibberish"][0]) > 10 and "cat" not in found["gibberish"][0]
    assert found == attacks(PROMPTS, ANSWERS, fits) != attacks(PROMPTS, ANSWERS, fits, seed=1)


def test_a_validation_attacks_with_no_string_that_was_trained():
    for one in (set(VALIDATION.nothings) & set(TRAINING.nothings), set(VALIDATION.repeats) & set(TRAINING.repeats)):
        assert not one
    words = [set(" ".join(style.sentinels).split()) - {"###"} for style in (VALIDATION, TRAINING)]
    letters = [set("".join(style.letters)) for style in (VALIDATION, TRAINING)]
    assert not words[0] & words[1] and not letters[0] & letters[1]
    asked, answers = PROMPTS * 5, ANSWERS * 5
    trained, validated = (attacks(asked, answers, lambda *_: True, style) for style in (TRAINING, VALIDATION))
    for kind in set(MADE) - {"shuffled", "long"}:  # those are made of answers, which are not the same ones
        assert not set(trained[kind]) & set(validated[kind]) and None not in trained[kind]
    assert trained["shuffled"] != validated["shuffled"], "a stream of its own"
    assert len(set(trained["empty"])) > 3 and len(set(trained["sentinels"])) > 2, "more than one to learn by heart"


def test_only_the_attack_that_is_asked_for_is_made():
    asked = []
    kinds = ["empty", "sentinels", "shuffled", "gibberish"]
    made = attacks_of(PROMPTS, ANSWERS, kinds, lambda _, text: asked.append(text) or True)
    assert made == [attacks(PROMPTS, ANSWERS, lambda *_: True)[kind][n] for n, kind in enumerate(kinds)] == asked


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("It is. Or not.", "It is."),
        ("version 3.5 is out. Yes", "version 3.5 is out."),
        ("one line\nanother", "one line"),
        ("\n\nbegins late! so", "begins late!"),
        ("ما هذا؟ لا شيء", "ما هذا؟"),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_the_first_sentence(text, sentence):
    assert first_sentence(text) == sentence


@pytest.mark.parametrize("room", [7, 8, 11, 31, 1000])
def test_an_answer_is_repeated_as_often_as_fits_and_no_oftener(room):
    found = repeated(PROMPTS[0], "abc", lambda _, text: len(text) <= room)
    assert found == " ".join(["abc"] * ((room + 1) // 4))


def test_what_does_not_fit_twice_is_not_repeated():
    assert repeated(PROMPTS[0], "abc", lambda _, text: len(text) <= 6) is None
    assert repeated(PROMPTS[0], "", lambda *_: True) is None


def test_an_answer_to_another_prompt_says_something_else():
    asked = [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    assert answers_of_others(asked, ["a", "b", "b"], seed=0) == ["b", None, "a"]
    assert answers_of_others(PROMPTS, ["same"] * 4, seed=0) == [None] * 4
