"""Invariant: a run's evaluation, taken again from its folder alone, gives what the run gave."""

import copy
import json
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.loaded import load_shared
from lit_llm.errors import UserError
from lit_llm.evaluation.exported_tasks import export
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import write_heldout
from lit_llm.lineage import lineage
from lit_llm.records import Document, Example, Heldout, Message, Prompt
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.training.evaluate_command import Evaluate, _settings, evaluate_again, run

SETS = [
    Heldout("general", "documents", (Document("The cat sat on the mat."), Document("The dog sat on the log."))),
    Heldout("task_pairs", "responses", (Example((Message("user", "The cat."), Message("assistant", "sat."))),)),
]
CONFIG = """
stage: {_target_: lit_llm.stages.fine_tuning.FineTuning, _partial_: true}
backbone: {}
tokenizer: {}
data: {}
optimizer: {}
schedule: {}
trainer: {accelerator: cpu, precision: 32-true, progress: false}
evaluation: {max_new_tokens: 5, max_items: 1, generate: true}
"""


@pytest.fixture
def folder(tmp_path, model, tokenizer):
    save_model(tmp_path / "run" / "model", model, tokenizer)
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    for heldout in SETS:
        write_heldout(tmp_path / "run" / "heldout", heldout)
    return tmp_path / "run"


def test_the_runs_own_configuration_is_rebuilt(folder, model, tokenizer):
    found = {scores.name: scores for scores in evaluate_again(Evaluate(folder))}
    assert set(found) == {"general", "task_pairs"} and found["general"].estimate("bits_per_byte").n == 1
    expected = evaluate(model, tokenizer, SETS[1], max_new_tokens=5)
    assert found["task_pairs"].as_metrics()["nll"]["mean"] == pytest.approx(
        expected.as_metrics()["nll"]["mean"], rel=1e-4
    )
    assert found["task_pairs"].answers == expected.answers
    whole = {scores.name: scores for scores in evaluate_again(Evaluate(folder, max_items=0, generate=False))}
    assert whole["general"].estimate("bits_per_byte").n == 2 and not whole["task_pairs"].answers


def test_folders_named_from_elsewhere_are_found_by_the_lineage(folder, tmp_path, model, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "reward/model", model, tokenizer)
    settings = CONFIG.replace("_partial_: true}", "_partial_: true, reward: {folder: reward/model}}")
    (folder / "config.yaml").write_text(settings)
    parts = {"config": {}, "data": {}, "metrics": {}, "tokenizer": {}}
    lineage.record(folder / "model", stage="ppo", parents={"stage.reward.folder": Path("reward/model")}, **parts)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cfg = _settings(RunFolder(folder), Evaluate(folder))
    assert cfg.stage.reward.folder == str((tmp_path / "reward/model").resolve())
    monkeypatch.chdir(tmp_path)
    assert _settings(RunFolder(folder), Evaluate(folder)).stage.reward.folder == "reward/model"


def test_the_table_says_what_differs_from_the_record(folder, capsys, tmp_path):
    scores = {one.name: one.as_metrics() for one in evaluate_again(Evaluate(folder))}
    scores["general"]["bits_per_byte"]["mean"] += 1
    (folder / "metrics.json").write_text(json.dumps({"heldout": scores}))
    run(Evaluate(folder, answers=1, output=tmp_path / "items"))
    lines = capsys.readouterr().out.splitlines()
    changed = [line for line in lines if "the run recorded" in line]
    assert len(changed) == 1 and "bits_per_byte" in changed[0]
    assert any("copy first sentence" in line for line in lines) and any(line.startswith("  [0] ") for line in lines)
    assert Scores.load(tmp_path / "items" / "general.json").name == "general"


def test_one_set_and_another_model(folder, model, tokenizer, tmp_path):
    save_model(tmp_path / "other", model, tokenizer)
    assert [s.name for s in evaluate_again(Evaluate(folder, model=tmp_path / "other", sets=["general"]))] == ["general"]


def test_mistakes(folder, tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml"):
        evaluate_again(Evaluate(tmp_path / "nothing"))
    with pytest.raises(UserError, match="sets=generl: the run has general, task_pairs"):
        evaluate_again(Evaluate(folder, sets=["generl"]))


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        (
            "{_target_: lit_llm.training.build.torch.load, _partial_: true}",
            "stage._target_=lit_llm.training.build.torch.load",
        ),
        ("{_target_: os.system}", "stage._target_=os.system"),
        (
            "{_target_: lit_llm.stages.grpo.GRPO, _partial_: true, "
            "reward: {_target_: lit_llm.rewards.function.FunctionReward, function: os.system}}",
            "stage.reward.function=os.system",
        ),
    ],
)
def test_a_strangers_configuration_runs_no_code_whatever_it_allows_itself(folder, stage, line):
    (folder / "config.yaml").write_text(f"allowed_targets: [os., torch.]\n{CONFIG}".replace(
        "{_target_: lit_llm.stages.fine_tuning.FineTuning, _partial_: true}", stage
    ))  # fmt: skip
    with pytest.raises(UserError) as error:
        evaluate_again(Evaluate(folder))
    assert line in str(error.value) and "allowed_targets=PACKAGE" in str(error.value)


def test_a_run_s_sets_go_through_the_harness_before_and_after(folder, tmp_path, model, tokenizer, capsys):
    pytest.importorskip("lm_eval")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    save_model(tmp_path / "start", other, tokenizer)
    (folder / "config.yaml").write_text(f"init_from: {tmp_path / 'start'}\n{CONFIG}")
    write_heldout(folder / "heldout", Heldout("asked", "prompts", (Prompt((Message("user", "The cat."),)),)))
    run(Evaluate(folder, max_items=0, export_tasks=tmp_path / "tasks"))
    assert "no task measures asked (prompts)" in capsys.readouterr().out
    run(Evaluate(folder, tasks=[str(tmp_path / "tasks/heldout_general.yaml")], output=tmp_path / "out"))
    (tmp_path / "pipeline.json").write_text("{}")
    (tmp_path / "report.html").write_text("before")
    (tmp_path / "ledger.json").write_text('{"entries": []}')
    run(Evaluate(folder, tasks=[str(tmp_path / "tasks/heldout_task_pairs.yaml")]))
    told = json.loads((folder / "tasks.json").read_text())["tasks"]
    assert set(told) == {"heldout_general", "heldout_task_pairs"}  # those of the first call stay
    entry = told["heldout_general"]
    assert json.loads((tmp_path / "out/tasks.json").read_text())["tasks"] == {"heldout_general": entry}
    after = evaluate(model, tokenizer, SETS[0]).as_metrics()["bits_per_byte"]["mean"]
    before = evaluate(load_shared(tmp_path / "start").model, tokenizer, SETS[0]).as_metrics()["bits_per_byte"]["mean"]
    assert entry["metrics"]["bits_per_byte"]["mean"] == pytest.approx(after, rel=1e-5)
    assert entry["before"]["metrics"]["bits_per_byte"]["mean"] == pytest.approx(before, rel=1e-5)
    change = entry["difference"]["bits_per_byte"]
    assert change["mean"] == pytest.approx(after - before, rel=1e-3) and change["se"] > 0
    assert entry["weights_sha256"] != entry["before"]["weights_sha256"]
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "bits_per_byte" in line)
    assert "before" in line and "difference" in line and "(paired bootstrap)" in line
    assert "ledger and report were written again" in out
    assert "heldout_task_pairs" in (tmp_path / "report.html").read_text()
    rows = json.loads((tmp_path / "ledger.json").read_text())["tasks"]
    assert {(row["stage"], row["set"]) for row in rows} == {("run", "heldout_general"), ("run", "heldout_task_pairs")}
    assert next(row for row in rows if row["metric"] == "bits_per_byte")["higher_is_better"] is False


def test_any_model_folder_answers_tasks_without_a_run(folder, tmp_path, tokenizer, capsys):
    pytest.importorskip("lm_eval")
    export(tmp_path / "tasks", SETS[:1], tokenizer, max_items=None, max_new_tokens=5)
    run(Evaluate(model=folder / "model", tasks=[str(tmp_path / "tasks")], limit=1))
    assert "n=1" in capsys.readouterr().out and not (folder / "tasks.json").exists()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "missing run=PATH, a run's folder; or give model=FOLDER with tasks="),
        ({"model": Path("m")}, "missing run=PATH"),
        ({"model": Path("m"), "tasks": ["t"], "export_tasks": Path("x")}, "missing run=PATH"),
        ({"model": Path("m"), "run": Path("r"), "tasks": ["t"]}, "tasks= takes one of them"),
        ({"run": Path("r"), "limit": 3}, "limit=3: is of tasks="),
        ({"model": Path("m"), "tasks": ["t"], "limit": 0}, "limit=0: must be above 0"),
    ],
)
def test_words_that_do_not_go_together(given, line):
    with pytest.raises(UserError, match=line):
        run(Evaluate(**given))
