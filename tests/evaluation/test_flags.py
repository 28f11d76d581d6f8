"""A flag classifier on held-out answers: measured by its own threshold, beside its floors, and by nothing else."""

import numpy as np
import pytest

from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.evaluation.flags import LONGER, MAJORITY
from lit_llm.evaluation.heldout import can_evaluate, evaluate
from lit_llm.evaluation.likelihood import completion_scores
from lit_llm.evaluation.scores import direction
from lit_llm.records import Comparison, Heldout, Labelled, Message

TEXTS = ["The cat sat.", "log the on cat the mat the log", "A cat.", "The dog sat on the log."]
ITEMS = tuple(
    Labelled((Message("user", f"q{n // 2}"),), TEXTS[n % 4] + " cat" * (n // 4), n % 3 == 0) for n in range(16)
)
FLAGS = Heldout("flags", "flags", ITEMS)


@pytest.fixture
def classifier(model):
    found = ScoreModel.from_language_model(model)
    found.label = "flagged"
    return found.eval()


def test_measures_are_those_of_the_probabilities_counted_by_hand(classifier, tokenizer):
    rows = [Comparison(item.prompt, (item.completion,), (1,)) for item in ITEMS]
    logits = np.array([one[0, 0] for one in completion_scores(classifier, tokenizer, rows, 4096)])
    chance, flagged = 1 / (1 + np.exp(-logits)), np.array([item.label for item in ITEMS])
    classifier.threshold = float(np.median(chance))
    called = chance >= classifier.threshold
    found = evaluate(classifier, tokenizer, FLAGS).summary
    assert found["accuracy"].mean == pytest.approx((called == flagged).mean())
    assert found["sensitivity"].mean == pytest.approx(called[flagged].mean())
    assert found["specificity"].mean == pytest.approx((~called)[~flagged].mean())
    assert found["balanced_accuracy"].mean == pytest.approx(0.5 * (called[flagged].mean() + (~called)[~flagged].mean()))
    assert found["brier"].mean == pytest.approx(((chance - flagged) ** 2).mean(), rel=1e-5)
    assert found["base_rate"].mean == pytest.approx(flagged.mean())
    assert {name: value.n for name, value in found.items() if not value.se > 0} == {}, "each has an error"
    assert {value.n for value in found.values()} == {8}, "by prompt"


def test_floors_know_the_majority_and_the_length(classifier, tokenizer):
    scores = evaluate(classifier, tokenizer, FLAGS)
    majority, longer = scores.floors[MAJORITY], scores.floors[LONGER]
    assert majority["accuracy"].mean == pytest.approx(10 / 16) and majority["auroc"].mean == 0.5
    assert majority["brier"].mean == pytest.approx(6 / 16 * 10 / 16)
    flagged = np.array([item.label for item in ITEMS])
    sizes = np.array([len(item.completion) for item in ITEMS])
    gaps = sizes[flagged][:, None] - sizes[~flagged]
    assert longer["auroc"].mean == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    above = scores.above_floors[LONGER]["auroc"]
    assert above.mean == pytest.approx(scores.summary["auroc"].mean - longer["auroc"].mean) and above.se > 0


def test_only_classifiers_take_flags_and_they_take_nothing_else(classifier, model, reward_model, tokenizer):
    rankings = Heldout("r", "rankings", (Comparison((Message("user", "q"),), ("a", "b"), (1, 2)),))
    assert can_evaluate(classifier, FLAGS) and not can_evaluate(classifier, rankings)
    assert not can_evaluate(model, FLAGS) and not can_evaluate(reward_model, FLAGS)
    with pytest.raises(UserError, match="needs a flag classifier"):
        evaluate(reward_model, tokenizer, FLAGS)


def test_fewer_flags_are_better():
    assert direction("score/flagged") == -1 and direction("base_rate") == 0 and direction("auroc") == 1
