"""Invariant: a task's change is tested on the items of both models, and adjusted for all tasks of the chain."""

import json
import math

import numpy as np
import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.harness import TaskScores, difference
from lit_llm.evaluation.scores import as_plain
from lit_llm.evaluation.statistics import Estimate, holm, mcnemar
from lit_llm.evaluation.task_changes import paired_tests, task_changes

N = 80


def scores(accuracy, bits, sha256="h"):
    """Of a task with an accuracy, bits per byte of texts of 10 bytes, and a metric of the whole without items."""
    sums = [(-math.log(2) * one, 10) for one in bits]
    metrics = {"acc": Estimate(float(np.mean(accuracy)), 0.05, N), "f1": Estimate(0.5, math.nan, N)}
    metrics["bits_per_byte"] = Estimate(sum(bits) / (10 * N), 0.01, N)
    items = {"acc": list(accuracy), "bits_per_byte": sums}
    return TaskScores("قطط", "1", sha256, 0, metrics, items, {"acc": True, "bits_per_byte": False, "f1": True})


@pytest.fixture
def two():
    rng = np.random.default_rng(0)
    before, bits = rng.integers(0, 2, N).astype(float), rng.normal(20, 3, N)
    after = np.where(rng.random(N) < 0.5, 1.0, before)
    return scores(before, bits), scores(after, bits + 3 + rng.normal(0, 0.5, N))


def as_file(before, after, folder):
    told = {name: as_plain(one) for name, one in difference(before, after).items()}
    entry = after.as_json() | {"limit": None, "chat": False, "before": before.as_json(), "difference": told}
    folder.mkdir()
    text = json.dumps({"lm_eval": "0.4.13", "tasks": {after.task: entry | {"tests": paired_tests(before, after)}}})
    (folder / "tasks.json").write_text(text)


def test_changes_are_tested_by_item_and_said_to_be_gained_or_lost(two, tmp_path):
    before, after = two
    found = paired_tests(before, after)
    assert set(found) == {"acc", "bits_per_byte"} and found["acc"]["test"] == "McNemar, exact"
    assert found["acc"]["p"] == mcnemar(before.items["acc"], after.items["acc"])
    assert found["bits_per_byte"]["worsened"] > 70 and found["bits_per_byte"]["low"] > 0.2
    as_file(before, after, tmp_path / "fine_tuning")
    entries = task_changes({"pretraining": (None, tmp_path), "fine_tuning": ("pretraining", tmp_path / "fine_tuning")})
    by_metric = {entry["metric"]: entry for entry in entries}
    assert {entry["stage"] for entry in entries} == {"fine_tuning"} and by_metric["acc"]["set"] == "قطط"
    assert by_metric["acc"]["verdict"] == "gained" and by_metric["bits_per_byte"]["verdict"] == "lost"
    assert by_metric["acc"]["p_adjusted"] == holm([found["acc"]["p"], found["bits_per_byte"]["p"]])[0]
    whole = by_metric["f1"]
    assert whole["verdict"] is whole["p"] is None and whole["change"] == {"mean": 0.0, "se": None, "n": N}
    assert by_metric["bits_per_byte"]["change"]["mean"] == pytest.approx(0.3, abs=0.02)


def test_the_same_model_has_not_changed(two, tmp_path):
    as_file(two[0], two[0], tmp_path / "run")
    assert {entry["verdict"] for entry in task_changes({"run": (None, tmp_path / "run")})} == {"same", None}


def test_other_questions_are_not_compared(two):
    before, after = two
    assert paired_tests(before, scores(after.items["acc"], [20.0] * N, "other")) == {}


@pytest.mark.parametrize("text", ["{", '{"tasks": []}', '{"tasks": {"a": 3}}', "[]"])
def test_a_damaged_file_is_one_line(text, tmp_path):
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(UserError, match=r"tasks\.json: holds no tasks by name; delete it"):
        task_changes({"run": (None, tmp_path)})
