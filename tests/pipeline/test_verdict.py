"""People's verdict on a pipeline's models, from a project of blind comparisons."""

from __future__ import annotations

import json

import pytest

from lit_llm.errors import UserError
from lit_llm.feedback.sampling import checkpoint_id
from lit_llm.feedback.web.command import Rank
from lit_llm.pipeline.human_feedback import comparison, of_this_chain
from lit_llm.report.verdict import verdict
from tests.small_project import compared, project

from .test_command import ALL, KEPT, changed, default, ran, run  # noqa: F401 (fixtures)


def test_people_s_verdict_is_written_for_the_report(run, tmp_path):  # noqa: F811
    compared(tmp_path / "verdict.db")
    run(f"win_rate={tmp_path}/verdict.db")
    found = json.loads((tmp_path / "one/win_rate.json").read_text())
    assert found["mean"] == pytest.approx(2 / 3) and (found["after"], found["before"]) == ("ppo", "before")
    assert found["of_this_chain"] is False, "answers of models whose weights nobody knows"
    shown = verdict(found)
    assert shown.share == "66.7%" and shown.counts == "2 wins, 0 ties, 1 losses" and "do not tell" in shown.words


def test_a_verdict_is_on_this_chain_s_models_by_their_weights(tmp_path, caplog):
    for name in ("instruction_tuning", "ppo"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model/model.safetensors").write_text(name)
    made = {name: tmp_path / name / "model" for name in ("instruction_tuning", "ppo")}
    hashes = {"after_hash": checkpoint_id(made["ppo"]), "before_hash": checkpoint_id(made["instruction_tuning"])}
    rate = {"mean": 0.6, "low": 0.55, "high": 0.7, "after": "a/model", "before": "b/model", **hashes}
    ours = of_this_chain(rate, made)
    assert (ours["after"], ours["before"], ours["of_this_chain"]) == ("ppo", "instruction_tuning", True)
    assert not caplog.text and verdict(ours).of_this_chain
    (made["ppo"] / "model.safetensors").write_text("trained anew")
    other = of_this_chain(rate, made)
    assert other == {**rate, "of_this_chain": False} and not verdict(other).of_this_chain
    assert len(caplog.records) == 1 and "a/model and b/model" in caplog.text


def test_a_verdict_that_is_none_is_said_before_the_first_step(run, tmp_path, ran):  # noqa: F811
    project(tmp_path / "rankings.db")
    for name in ("rankings.db", "nothing.db"):
        with pytest.raises(UserError, match=name):
            run(f"win_rate={tmp_path}/{name}")
    assert ran == []


def test_the_last_lines_say_how_people_compare_the_models(tmp_path):
    lines = comparison(tmp_path / "run", "ppo", tmp_path / "before", tmp_path / "prompts.jsonl")
    words = lines[1].split()
    assert words[:2] == ["python", "scripts/rank.py"]
    assert {word.partition("=")[0] for word in words[2:]} <= set(Rank.__dataclass_fields__)
    assert f"win_rate={words[-1].removeprefix('project=')}" in lines[2]
    assert comparison(tmp_path, "ppo", None, None) == []
