"""A reward model's accuracy by the agreement of the annotators, and its score beside the length."""

import copy

import numpy as np
import pytest
import torch

from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.scores import direction
from lit_llm.records import Comparison, Heldout, Message

PROMPT = (Message("user", "The cat"),)
TEXTS = ("sat on the mat", "sat", "log log")
RANKINGS = Heldout(
    "rankings",
    "rankings",
    (
        Comparison(PROMPT, TEXTS, (1, 2, 2), "ann"),
        Comparison(PROMPT, (TEXTS[2], TEXTS[0], TEXTS[1]), (3, 2, 1), "bob"),  # in another order on the screen
        Comparison((Message("user", "dog"),), TEXTS[:2], (1, 2), "ann"),
    ),
)


@pytest.fixture
def scored(reward_model, tokenizer):
    still = copy.deepcopy(reward_model).eval()

    def score(prompt, text):
        ids = tokenizer.encode_prompt(prompt) + tokenizer.encode_completion(text)
        with torch.no_grad():
            return float(still(torch.tensor([ids]), torch.tensor([len(ids)])))

    return score


def test_pairs_that_annotators_agree_on_are_told_from_those_that_they_do_not(reward_model, tokenizer, scored):
    scores = evaluate(reward_model, tokenizer, RANKINGS)
    mat, sat, log = (scored(PROMPT, text) for text in TEXTS)
    agreed, disputed = scores.items["accuracy_agreed"], scores.items["accuracy_disputed"]
    # mat before log: both. mat and sat: either way round. sat and log: a tie, and sat before.
    assert agreed.numbers.tolist() == [0, 1] and agreed.weights.tolist() == [1, 1]
    assert agreed.values.tolist() == [mat > log] * 2
    assert disputed.weights.tolist() == [1, 2]
    assert disputed.values.tolist() == [float(mat > sat), float(sat > mat) + float(sat > log)]
    alone = evaluate(reward_model, tokenizer, RANKINGS._replace(items=RANKINGS.items[2:]))
    assert not {"accuracy_agreed", "accuracy_disputed"} & set(alone.items)


def test_the_score_is_correlated_with_the_length_of_each_text_once(reward_model, tokenizer, scored):
    scores = evaluate(reward_model, tokenizer, RANKINGS)
    asked = [(PROMPT, text) for text in TEXTS] + [(RANKINGS.items[2].prompt, text) for text in TEXTS[:2]]
    expected = np.corrcoef([scored(*one) for one in asked], [len(text) for _, text in asked])[0, 1]
    assert scores.summary["length_correlation"].mean == pytest.approx(expected, rel=1e-4)
    assert scores.summary["length_correlation"].n == 5 and direction("length_correlation") == 0
