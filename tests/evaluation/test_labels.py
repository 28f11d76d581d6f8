"""Labels on held-out completions: the area under the curve and its error, and how each model is measured."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from lit_llm.evaluation.heldout import can_evaluate, evaluate
from lit_llm.evaluation.labels import auc
from lit_llm.records import Heldout, Labelled, Message

ITEMS = tuple(
    Labelled((Message("user", f"q{n // 2}"),), "The cat sat." if n % 2 else "log the on", bool(n % 2)) for n in range(8)
)
LABELS = Heldout("labels", "labels", ITEMS)


def test_auc_is_the_rank_sum_test_s_and_its_error_is_delong_s():
    generator = np.random.default_rng(0)
    scores, labels = generator.integers(0, 9, 60).astype(float), generator.random(60) < 0.4
    found = auc(scores, labels)
    x, y = scores[labels], scores[~labels]
    assert found.mean == pytest.approx(mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # DeLong's placements, written out
    variance = wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)
    assert found.se == pytest.approx(np.sqrt(variance), rel=0.03)
    assert auc(scores, labels, [0] * 60).n == 1 and np.isnan(auc([1.0, 2.0], [True, True]).mean)


def test_a_language_model_is_measured_by_likelihood_and_beside_a_reference(model, tokenizer):
    assert can_evaluate(model, LABELS)
    alone = evaluate(model, tokenizer, LABELS)
    assert set(alone.summary) == {"likelihood_auc"}
    beside = evaluate(model, tokenizer, LABELS, reference=model)
    assert beside.summary["implicit_auc"].mean == 0.5 and beside.summary["implicit_auc"].n == 4  # prompts
