"""Invariant: the rule prefers what a person would, changes by small steps, and nothing degenerate scores well."""

from itertools import pairwise

import pytest

from lit_llm.feedback.rule import marks, reward, rule, topic
from lit_llm.records import Message

QUESTION = (Message("user", "What does numpy.linalg.cross do?"),)
GOOD = "It returns the cross product of two arrays of vectors, taken along the last axis of both inputs."
FAIR = "It returns the cross product of two vectors."

DEGENERATE = {
    "empty": "",
    "blank": " \n ",
    "dots": "....",
    "one word": "cross.",
    "a name repeated": "cross " * 12,
    "very long": " ".join(f"word{n}" for n in range(400)) + ".",
    "one long string": "x" * 3000,
    "a good sentence repeated": FAIR + " " + FAIR + " " + FAIR,
    "a good sentence many times": GOOD * 30,
    "the question": "What does numpy.linalg.cross do?",
    "the question as a statement": "Numpy linalg cross does what numpy linalg cross does.",
    "code": ">>> {'a': [1, 2], 'b': x[0]} == y_1; z**2",
    "layout": "\n\n* -- * --\n| a | b |\n",
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_text_scores_low(name):
    assert rule(QUESTION, DEGENERATE[name]) < 0.3 < 0.7 < rule(QUESTION, FAIR)


def test_a_better_answer_scores_better():
    steps = [
        "vectors of it",
        "returns product of some vectors",
        "it returns the product of two vectors",
        "It returns the product of two vectors.",
        "It returns the cross product.",
        GOOD,
    ]
    scores = [rule(QUESTION, text) for text in steps]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    assert all(0 <= score <= 1 for score in scores) and scores[-1] > 0.8


def test_it_changes_by_small_steps():
    """No single word decides: what reinforcement learning climbs has no cliff, but for the end of the sentence."""
    words = GOOD.split()
    scores = [rule(QUESTION, " ".join(words[:n])) for n in range(len(words) + 1)]
    assert max(abs(b - a) for a, b in pairwise(scores)) < 0.35
    assert len({round(score, 3) for score in scores}) >= 8


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is os.path.join for?", ["path", "join"]),
        ("Here is a signature: get_KSY_matrix(matrix). What might it do?", ["get", "ksy", "matrix"]),
        ("Explain sympy.RigidBody.angular_momentum in one sentence.", ["rigid", "body", "angular", "momentum"]),
        ("How do plants drink water?", ["plants", "drink", "water"]),
        ("ما هي عاصمة مصر؟", ["عاصمة", "مصر"]),
    ],
)
def test_the_topic_is_what_was_asked_about(question, words):
    assert topic([Message("user", question)]) == words


def test_other_forms_of_a_word_count_and_other_scripts_too():
    asked = (Message("user", "What does zipfile.ZipFile.close do?"),)
    assert marks(asked, "It closes the archive file.").on_topic > marks(asked, "It ends the work.").on_topic
    arabic = (Message("user", "ما هي عاصمة مصر؟"),)
    answer = "القاهرة هي عاصمة مصر وأكبر مدنها وتقع على نهر النيل في شمال البلاد."
    assert rule(arabic, answer) > 0.75 > 0.3 > rule(arabic, "ما هي عاصمة مصر؟")


def test_a_follow_up_is_about_the_first_question():
    turns = (*QUESTION, Message("assistant", FAIR), Message("user", "Where do I find it?"))
    assert "cross" in topic(turns)


def test_reward_takes_many():
    assert reward([QUESTION, QUESTION], [FAIR, ""]) == [rule(QUESTION, FAIR), 0.0]
