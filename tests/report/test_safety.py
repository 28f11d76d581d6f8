"""The rate of flagged answers: raw and corrected, with its interval, beside how good the classifier is."""

import json
import re

import pytest

from lit_llm.evaluation.prevalence import corrected_interval, rogan_gladen
from lit_llm.evaluation.statistics import Estimate
from lit_llm.report.page import write_report
from lit_llm.report.reading import read_pipeline
from lit_llm.report.safety import safety
from lit_llm.report.verdict import verdict

HELDOUT = {
    "sensitivity": {"mean": 0.6, "se": 0.04, "n": 120},
    "specificity": {"mean": 0.75, "se": 0.03, "n": 120},
    "auroc": {"mean": 0.76, "se": 0.02, "n": 120},
    "base_rate": {"mean": 0.38, "se": 0.02, "n": 120},
}
FLOORS = {"longer_is_flagged": {"auroc": {"mean": 0.48, "se": 0.03, "n": 120, "above": {"mean": 0.28, "se": 0.04}}}}


def entry(stage, after, before=None):
    change = {"mean": after - before, "se": 0.03, "n": 100} if before is not None else None
    return {
        "stage": stage, "set": "prompts", "metric": "score/flagged", "against": None, "change": change,
        "after": {"mean": after, "se": 0.05, "n": 100}, "verdict": "gained" if change else None, "before": None,
    }  # fmt: skip


@pytest.fixture
def flagged(pipeline):
    """The finished pipeline with a flag classifier and its scorer in the ledger."""
    folder = pipeline / "flag_classification"
    (folder / "model").mkdir(parents=True)
    found = {"heldout": {"flags": HELDOUT}, "floors": {"flags": FLOORS}, "seconds": 20, "counts": {}}
    (folder / "metrics.json").write_text(json.dumps(found))
    ledger = json.loads((pipeline / "ledger.json").read_text())
    ledger["entries"] += [entry("instruction_tuning", 0.45), entry("ppo", 0.30, 0.45)]
    (pipeline / "ledger.json").write_text(json.dumps(ledger))
    return pipeline


def test_rates_are_raw_and_corrected_with_intervals(flagged):
    found = safety(read_pipeline(flagged))
    before, after = found.rates
    assert (before.raw, before.raw_bounds, before.change) == ("45.0%", "35.6 to 54.8%", "")
    assert after.change == "-15.0 ± 3.0 points" and after.verdict == "better" and after.answers == 100
    expected = rogan_gladen(Estimate(0.30, 0.05, 100), Estimate(0.6, 0.04, 120), Estimate(0.75, 0.03, 120))
    assert after.corrected == f"{100 * expected.mean:.1f}%" == "14.3%"
    low, high = corrected_interval(Estimate(0.30, 0.05, 100), Estimate(0.6, 0.04, 120), Estimate(0.75, 0.03, 120))
    assert after.corrected_bounds == f"{100 * low:.1f} to {100 * high:.1f}%" and low < expected.mean < high
    (auroc,) = [row for row in found.measures if row.name == "auroc"]
    assert auroc.value.mean == 0.76 and "longer is flagged 0.48" in auroc.floors and "+0.28" in auroc.floors


def test_a_classifier_no_better_than_chance_gives_no_corrected_rate(flagged):
    metrics = json.loads((flagged / "flag_classification/metrics.json").read_text())
    metrics["heldout"]["flags"]["specificity"]["mean"] = 0.4
    (flagged / "flag_classification/metrics.json").write_text(json.dumps(metrics))
    assert safety(read_pipeline(flagged)).rates[1].corrected == "not to be told"


def test_the_page_shows_safety_verdict_and_what_was_left_out(flagged, hostile):
    (flagged / "pipeline.json").write_text(json.dumps({"skipped": {"ppo": f"below the floor {hostile}"}}))
    rate = {"mean": 0.64, "low": 0.55, "high": 0.73, "n": 110, "wins": 60, "ties": 20, "losses": 30}
    (flagged / "win_rate.json").write_text(json.dumps({**rate, "after": "ppo", "before": "instruction_tuning"}))
    page = write_report(flagged).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "Safety: flagged answers" in text and "14.3%" in text and "38.0% were flagged" in text
    assert "64.0%" in text and "55.0 to 73.0%" in text and "60 wins, 20 ties, 30 losses" in text
    assert "ppo: below the floor" in text and hostile not in page
    assert 'href="#safety"' in page and 'href="#verdict"' in page


@pytest.mark.parametrize("ours", [True, False])
def test_a_verdict_on_other_models_is_labelled(pipeline, ours):
    rate = {"mean": 0.64, "low": 0.55, "high": 0.73, "after": "ppo", "before": "dpo", "of_this_chain": ours}
    (pipeline / "win_rate.json").write_text(json.dumps(rate))
    assert ("Not on this pipeline's models" in write_report(pipeline).read_text()) is not ours


def test_without_a_classifier_there_is_no_section_and_without_one_that_could_be_made_a_reason(pipeline):
    assert safety(read_pipeline(pipeline)) is None and 'id="safety"' not in write_report(pipeline).read_text()
    (pipeline / "pipeline.json").write_text(json.dumps({"skipped": {"flag_classification": "nothing is flagged"}}))
    assert safety(read_pipeline(pipeline)).note == "No flag classifier was made: nothing is flagged."


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.4, 0.6, "do not tell"), (0.55, 0.7, "prefer ppo to"), (0.2, 0.4, "prefer the one before to ppo")],
)
def test_a_verdict_says_no_more_than_its_interval(low, high, words):
    assert words in verdict({"mean": (low + high) / 2, "low": low, "high": high, "after": "ppo"}).words
    assert verdict({}) is None


def test_a_pipeline_of_before_called_it_left_out(pipeline):
    (pipeline / "pipeline.json").write_text(json.dumps({"left_out": {"flag_classification": "nothing is flagged"}}))
    assert read_pipeline(pipeline).summary["skipped"] == {"flag_classification": "nothing is flagged"}
