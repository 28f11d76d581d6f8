"""The TF-IDF floor against scikit-learn, where that is installed, and against its own definition by hand."""

import math

import numpy as np
import pytest
import torch

from lit_llm.records import Comparison, Message
from lit_llm.rewards.validation.tfidf import TfidfBradleyTerry, Vectorizer

PROMPT = (Message("user", "q"),)
WORDS = ["please", "sorry", "I", "can", "not", "help", "you", "with", "this", "here", "is", "how", "the", "cat"]


def comparison(texts, ranks, weight=1.0):
    return Comparison(PROMPT, tuple(texts), tuple(ranks), weight=weight)


def pairs(count, seed=0):
    """Random texts; the one with more "sorry" and "cat" is better, mostly."""
    draw = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        one, two = (" ".join(draw.choice(WORDS, draw.integers(3, 12))) for _ in range(2))
        gap = sum((text.count("sorry") + text.count("cat")) * sign for text, sign in ((one, 1), (two, -1)))
        if gap and one != two:
            found.append(comparison((one, two), (1, 2) if gap + draw.normal() > 0 else (2, 1)))
    return found


def dense(vectorizer, texts):
    rows, columns, values = vectorizer.transform(texts)
    matrix = np.zeros((len(texts), len(vectorizer.columns)))
    matrix[rows, columns] = values
    return matrix


def test_it_is_scikit_learns_logistic_regression_on_differences():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    train, test = pairs(150), [t for one in pairs(40, seed=1) for t in one.completions]
    ours = TfidfBradleyTerry.fit(train, c=2.0)
    texts = list(dict.fromkeys(t for one in train for t in one.completions))
    theirs = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+").fit(texts)
    order = [theirs.vocabulary_[term] for term in ours.vectorizer.columns]
    np.testing.assert_allclose(dense(ours.vectorizer, test), theirs.transform(test).toarray()[:, order], atol=1e-12)
    better = [one.completions[one.ranks.index(1)] for one in train]
    worse = [one.completions[one.ranks.index(2)] for one in train]
    gaps = theirs.transform(better) - theirs.transform(worse)
    signs = np.where(np.arange(150) % 2, 1, -1)  # it wants two classes: every other pair the other way round
    fitted = linear.LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=2000)
    fitted.fit(gaps.multiply(signs[:, None]).tocsr(), signs)
    np.testing.assert_allclose(ours(test), theirs.transform(test) @ fitted.coef_[0], atol=1e-4)


def test_the_vector_of_a_text_by_hand():
    vectorizer = Vectorizer(["a b a", "b c"])
    found = dense(vectorizer, ["A, b? A! unknown"])[0]
    idf = {"a": 1, "b": 2, "a b": 1, "b a": 1}
    raw = {t: (1 + (math.log(2) if t == "a" else 0)) * (math.log(3 / (1 + n)) + 1) for t, n in idf.items()}
    length = math.sqrt(sum(value**2 for value in raw.values()))
    for term, column in vectorizer.columns.items():
        assert found[column] == pytest.approx(raw.get(term, 0.0) / length)
    assert not dense(vectorizer, ["", "nothing known"]).any()


def test_it_is_at_the_peak_of_its_objective_with_rankings_and_weights():
    """The gradient by hand is zero: each comparison's pairs share its weight, a tie makes none."""
    train = [
        comparison(("a b", "b c", "c"), (1, 2, 2), weight=2.0),
        comparison(("c d", "a"), (1, 2)),
        comparison(("d", "e"), (1, 1)),
    ]
    fitted = TfidfBradleyTerry.fit(train, c=0.5)
    texts = ["a b", "b c", "c", "c d", "a"]
    vector = dict(zip(texts, dense(fitted.vectorizer, texts), strict=True))
    w, gradient = fitted.weights.numpy(), 2 * fitted.weights.numpy()
    for better, worse, part in (("a b", "b c", 1.0), ("a b", "c", 1.0), ("c d", "a", 1.0)):
        gap = vector[better] - vector[worse]
        gradient = gradient - part * gap / (1 + math.exp(gap @ w))
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_it_learns_what_words_can_tell():
    model, test = TfidfBradleyTerry.fit(pairs(300)), pairs(200, seed=5)
    with torch.inference_mode():
        scores = model([t for one in test for t in one.completions]).reshape(-1, 2)
    right = [(s[0] > s[1]) == (one.ranks[0] == 1) for s, one in zip(scores, test, strict=True)]
    assert np.mean(right) > 0.75
