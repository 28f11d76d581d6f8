"""Invariant: every coefficient of a project is what its rankings say, with an interval that holds the truth."""

import json

import numpy as np
import pytest

from lit_llm.evaluation.statistics import wilson_interval
from lit_llm.feedback.agreement import COEFFICIENTS, describe, ranking_of, share, summarize, summary
from lit_llm.feedback.coefficients import Ranking
from lit_llm.feedback.importing import add_rows, read_items
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.projects import ProjectSettings, create_project


def ranking(task, name, *ranks, places=None):
    return Ranking(task, name, dict(zip("abcd", ranks, strict=False)), dict(zip("abcd", places or (), strict=False)))


def test_a_summary_by_hand():
    normal = [
        ranking("p", "x", 1, 2, 3, places=(0, 1, 2)),
        ranking("p", "y", 1, 3, 2, places=(2, 1, 0)),
        ranking("q", "x", 2, 1, places=(1, 0)),
        ranking("q", "y", 2, 1, places=(0, 1)),
    ]
    gold = [ranking("g", "x", 1, 2, 2), ranking("g", "y", 2, 1, 3)]
    found = summarize(normal, gold, {"g": {"a": 1, "b": 2, "c": 3}}, [ranking("p", "x", 2, 1, 3)])
    assert (found["rankings"], found["tasks"], found["annotators"]) == (4, 2, 2)
    assert found["pair_agreement"]["mean"] == pytest.approx((2 + 1) / 4) and found["pair_agreement"]["n"] == 2
    assert found["tau_b"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["kendalls_w"]["mean"] == pytest.approx((0.75 + 1) / 2)  # p: sums 2, 5, 5: 12 * 6 / (4 * 24)
    assert found["gold_accuracy"]["mean"] == pytest.approx((2 + 2) / 6)  # x ties b and c, which is no right answer
    assert found["by_annotator"]["x"]["gold_accuracy"]["mean"] == pytest.approx(2 / 3)
    assert found["self_consistency"]["mean"] == pytest.approx(2 / 3)
    assert found["by_annotator"]["y"]["self_consistency"]["mean"] is None
    assert found["first_is_best"]["mean"] == pytest.approx(2 / 4)  # x on both; y never
    assert found["first_is_best"]["chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    text = describe(found)
    assert "4 rankings of 2 prompts by 2 annotators" in text and "75.0%" in text and "chance 41.7%" in text


def test_nothing_is_known_of_nothing():
    found = summarize([])
    assert all(found[name]["mean"] is None and found[name]["n"] == 0 for name in COEFFICIENTS)
    assert describe(found).count("not known yet") == len(COEFFICIENTS)
    alone = summarize([ranking("p", "x", 1, 2)])
    assert alone["alpha_pairs"]["mean"] is None and alone["pair_agreement"]["mean"] is None


def test_the_storage_order_changes_no_digit():
    generator = np.random.default_rng(0)
    normal = [
        ranking(f"t{t}", name, *generator.integers(1, 5, 4).tolist(), places=generator.permutation(4).tolist())
        for t in range(12)
        for name in "xyz"
    ]
    assert summarize(normal) == summarize(normal[::-1])


def test_a_share_s_interval():
    alone = share([1.0] * 30 + [0.0] * 20, [str(n) for n in range(50)])
    assert (alone["low"], alone["high"]) == pytest.approx(wilson_interval(30, 50), abs=0.005)
    together = share([1.0] * 30 + [0.0] * 20, [str(n // 5) for n in range(50)])  # ten prompts of five alike
    assert (together["low"], together["high"]) == pytest.approx(wilson_interval(6, 10), abs=0.02)
    assert share([1.0] * 5, list("abcde"))["low"] == pytest.approx(wilson_interval(5, 5)[0])
    assert share([], [])["mean"] is None


def test_the_interval_of_a_share_holds_the_truth():
    """Of 0.8 from 40 prompts with 3 dependent values each: 95% of the intervals."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        p = generator.beta(4, 1, 40)
        values = (generator.random((40, 3)) < p[:, None]).astype(float).ravel().tolist()
        found = share(values, [str(n // 3) for n in range(120)])
        held += found["low"] <= 0.8 <= found["high"]
    assert 0.91 <= held / 300 <= 0.985


def test_a_row_by_its_hashes():
    row = {
        "task": 7,
        "completion_hashes": ["h1", "h2"],
        "ranking": [2, 1],
        "annotator": "x",
        "positions": [1, 0],
    }
    assert ranking_of(row) == Ranking("7", "x", {"h1": 2, "h2": 1}, {"h1": 1, "h2": 0})
    assert ranking_of({**row, "positions": [None, None]}).places == {}
    assert ranking_of({**row, "task": 9, "repeat_of": 7}).task == "7"


def test_two_tasks_of_one_prompt_are_two(tmp_path):
    """An annotator alone agrees with nobody, however many answers of the prompt there are."""
    file = tmp_path / "rows.jsonl"
    each = [("x", "ab", [1, 2]), ("x", "cb", [2, 1]), ("x", "ac", [1, 2])]
    rows = [{"prompt": "p", "completions": list(a), "ranking": r, "annotator": name} for name, a, r in each]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = open_store(tmp_path / "p.db", create=True)
    create_project(store, ProjectSettings())
    add_rows(store, read_items(str(file)))
    found = summary(store)
    assert found["tasks"] == 3 and found["alpha_ranks"]["n"] == found["pair_agreement"]["n"] == 0
