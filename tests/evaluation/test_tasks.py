"""Invariant: ROUGE, BLEU and chrF are what hand computation and torchmetrics say."""

import math

import numpy as np
import pytest
from torchmetrics.functional.text import bleu_score, chrf_score, rouge_score

from lit_llm.evaluation import tasks

ANSWERS = ["the cat sat on the mat", "Return a new list .", "no overlap at all", "x", ""]
REFERENCES = ["the cat lay on the mat today", "Return the new sorted list .", "Something else entirely", "x", "y z"]


def test_rouge_by_hand():
    got = tasks.rouge("the cat sat on the mat", "the cat lay on the mat today")
    # 5 of 6 and of 7 words; bigrams "the cat", "on the", "the mat" of 5 and 6; longest common "the cat on the mat"
    assert got["rouge1"] == pytest.approx(2 * (5 / 6) * (5 / 7) / (5 / 6 + 5 / 7), abs=1e-6)
    assert got["rouge2"] == pytest.approx(2 * (3 / 5) * (3 / 6) / (3 / 5 + 3 / 6), abs=1e-6)
    assert got["rougeL"] == pytest.approx(2 * (5 / 6) * (5 / 7) / (5 / 6 + 5 / 7), abs=1e-6)


def test_rouge_equals_torchmetrics_on_english_and_reads_arabic():
    for answer, reference in zip(ANSWERS, REFERENCES, strict=True):
        theirs = rouge_score(answer, reference, rouge_keys=("rouge1", "rouge2", "rougeL"))
        for name, value in tasks.rouge(answer, reference).items():
            assert value == pytest.approx(float(theirs[f"{name}_fmeasure"]), abs=1e-6)
    assert tasks.rouge("جلست القطة على السجادة", "القطة على السجادة")["rouge1"] == pytest.approx(6 / 7, abs=1e-6)


def test_bleu_by_hand_and_as_torchmetrics():
    answer, reference = "the cat sat on the mat", "the cat lay on the mat today"
    # precisions 5/6, 3/5, 1/4 ("on the mat"), 0/3: corpus BLEU is 0; sentence BLEU adds one to n > 1
    assert tasks.corpus_bleu([answer], [reference]).mean == 0
    expected = math.exp(1 - 7 / 6) * (5 / 6 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
    assert tasks.sentence_bleu(answer, reference) == pytest.approx(expected)
    answers, references = [*ANSWERS, "a b c d e f g", "a b c d x"], [*REFERENCES, "a b c d e g", "a b c d y"]
    ours = tasks.corpus_bleu(answers, references)
    assert ours.mean == pytest.approx(float(bleu_score(answers, [[r] for r in references])), abs=1e-6) and ours.mean > 0
    assert 0 < ours.se < 0.5 and ours.n == 7


def test_bleu_cuts_punctuation_from_words():
    assert tasks.sentence_bleu("Join two paths.", "Join two paths .") == pytest.approx(1)


def test_chrf_by_hand_and_as_torchmetrics():
    # "abc" against "abd": n=1 2/3 both ways, n=2 1/2, n=3 0; n > 3 nothing
    assert tasks.chrf("abc", "abd") == pytest.approx((2 / 3 + 1 / 2) / 6)
    for answer, reference in zip(ANSWERS, REFERENCES, strict=True):
        theirs = float(chrf_score([answer], [[reference]], n_word_order=0))
        assert tasks.chrf(answer, reference) == pytest.approx(theirs, abs=1e-5)


def test_scores_of_many():
    got = tasks.text_scores(ANSWERS, REFERENCES)
    assert set(got) == {"rouge1", "rouge2", "rougeL", "chrf", "sentence_bleu", "exact_match"}
    assert all(values.shape == (5,) and (values >= 0).all() and (values <= 1).all() for values in got.values())
    np.testing.assert_array_equal(got["exact_match"], [0, 0, 0, 1, 0])
    same = tasks.text_scores(["One  two."], ["One two."])
    assert all(values[0] == pytest.approx(1) for values in same.values())


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("Return x. Then more.", "Return x."),
        ("Uses v1.2 of it! More", "Uses v1.2 of it!"),
        ("no stop here\nsecond line", "no stop here"),
        ("\n  ما هذا؟ لا شيء.", "ما هذا؟"),
        ("", ""),
    ],
)
def test_the_first_sentence(source, first):
    assert tasks.copy_first_sentence(source) == first


def test_the_most_frequent_target():
    assert tasks.most_frequent(["a", "b", "b", "a", "b"]) == "b" and tasks.most_frequent([]) == ""
