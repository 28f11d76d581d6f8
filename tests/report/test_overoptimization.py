"""Proxy and gold over sqrt(KL) in the page: curves, points with error bars, fits and the table, from files alone."""

import json
import math
import re

import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.best_of_n import kl
from lit_llm.report.overoptimization import overoptimization
from lit_llm.report.page import write_report
from lit_llm.report.reading import read_pipeline

RULE = {"_target_": "lit_llm.feedback.rule.reward", "_partial_": True}


def estimate(mean, se=0.1, n=60):
    return {"mean": mean, "se": se, "n": n}


@pytest.fixture
def measured(tmp_path):
    """A pipeline's folder with a policy that was watched, a ledger and best-of-n."""
    for name in ("instruction_tuning", "ppo", "dpo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"seconds": 40.0}))
    rows = [
        {
            "step": 5 * i,
            "source": "prompts",
            "kl": float(i * i),
            "proxy": 1.0 * i,
            "gold": i * (0.9 - 0.4 * math.log(i)),
        }
        for i in range(1, 6)
    ]
    (tmp_path / "ppo" / "overoptimization.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    points = [
        {
            "n": n,
            "kl": kl(n),
            "proxy": estimate(0.2 + i),
            "gold": estimate(0.5 + kl(n) ** 0.5 * (0.4 - 0.1 * kl(n) ** 0.5)),
        }
        for i, n in enumerate((1, 2, 4, 8, 16))
    ]
    control = {"points": points, "seconds": 3.0, "model": "instruction_tuning"}
    (tmp_path / "best_of_n.json").write_text(json.dumps(control))
    entries = [
        {"stage": stage, "set": "prompts", "metric": metric, "after": estimate(value)}
        for stage, values in {
            "instruction_tuning": {"score/reward": 0.2, "score/rule": 0.5},
            "ppo": {"score/reward": 2.5, "score/rule": 0.8, "kl/answer": 4.0},
            "dpo": {"score/reward": 1.5, "score/rule": 0.7, "kl/answer": -0.01},
        }.items()
        for metric, value in values.items()
    ]
    (tmp_path / "ledger.json").write_text(json.dumps({"entries": entries, "stages": ["instruction_tuning", "ppo"]}))
    return tmp_path


def test_methods_stand_side_by_side(measured):
    found = overoptimization(read_pipeline(measured))
    rows = {row.name: row for row in found.methods}
    assert list(rows) == ["instruction_tuning: one answer", "instruction_tuning: best of 16", "ppo", "dpo"]
    assert rows["ppo"].gold == "0.80 ± 0.10" and rows["ppo"].kl == "4.00 ± 0.10" and rows["ppo"].seconds
    assert rows["instruction_tuning: best of 16"].proxy == "4.20 ± 0.10"
    assert float(rows["instruction_tuning: best of 16"].kl) == pytest.approx(kl(16), abs=1e-3)


def test_curves_points_bars_and_fits(measured):
    found = overoptimization(read_pipeline(measured))
    proxy, gold = found.figures
    assert gold.legend == ("ppo, validation", "best of n", "ppo, held out", "dpo, held out")
    assert str(gold.svg).count('class="line error') == 5 + 1 + 1  # the training's own curve knows no errors
    assert ("ppo, held out", "2", "0.80 ± 0.10") in gold.rows and ("dpo, held out", "0", "0.70 ± 0.10") in gold.rows
    assert "n = 16" in str(proxy.svg) and "step 25" in str(gold.svg)
    (line,) = [one for one in found.fits if one.startswith("ppo, validation, gold")]
    alpha, beta = re.search(r"d \(([\d.]+) - ([\d.]+) ln d\), R² 1 over 5 points", line).groups()
    assert (float(alpha), float(beta)) == pytest.approx((0.9, 0.4))
    (line,) = [one for one in found.fits if one.startswith("best of n, gold")]
    assert line == "best of n, gold: R = 0.5 + d (0.4 - 0.1 d), R² 1 over 5 points; largest at d = 2"


def test_the_page_has_the_section(measured):
    page = write_report(measured).read_text()
    assert 'id="overoptimization"' in page and "best of 16" in page and "Proxy and gold" in page
    assert "Gold reward: another reward" in page and "simulated annotators" not in page


@pytest.mark.parametrize("config", [{"stage": {"gold": RULE}}, {"evaluation": {"scorers": {"rule": RULE}}}])
def test_the_simulated_annotators_rule_is_called_that(measured, config):
    (measured / "ppo/config.yaml").write_text(json.dumps(config))
    found, page = overoptimization(read_pipeline(measured)), write_report(measured).read_text()
    assert found.figures[1].title == "Gold reward: the simulated annotators' rule"
    assert "nothing of what people mean" in page and "which was meant" not in page


def test_without_a_gold_reward_none_is_spoken_of(measured):
    for name in ("ppo/overoptimization.jsonl", "best_of_n.json", "ledger.json"):
        text = (measured / name).read_text()
        (measured / name).write_text(text.replace('"gold"', '"unread"').replace("score/rule", "score/other"))
    found, page = overoptimization(read_pipeline(measured)), write_report(measured).read_text()
    assert found.gold == "" and len(found.figures) == 1
    assert "No gold reward judged" in page and "Proxy and gold" not in page and ">gold</th>" not in page


def test_without_measurements_there_is_none(measured):
    for file in ("ppo/overoptimization.jsonl", "best_of_n.json", "ledger.json"):
        (measured / file).unlink()
    assert overoptimization(read_pipeline(measured)) is None
    assert 'id="overoptimization"' not in write_report(measured).read_text()


def test_a_damaged_curve_is_named(measured):
    (measured / "ppo" / "overoptimization.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r"overoptimization.jsonl: not readable"):
        overoptimization(read_pipeline(measured))
