"""Best-of-n at a pipeline's end: measured once, read again while nothing that it depends on changed, left out else."""

import json

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.config.validation import findings_in
from lit_llm.errors import UserError
from lit_llm.evaluation.sets import write_heldout
from lit_llm.lineage import code_hash
from lit_llm.pipeline import best_of_n_control
from lit_llm.pipeline.final_evaluation import Models
from lit_llm.records import Heldout, Message, Prompt
from lit_llm.text.bpe import train_bpe

RUN = """
stage: {_target_: lit_llm.stages.ppo.PPO, _partial_: true}
data: {}
backbone: {}
trainer: {accelerator: cpu, precision: 32-true}
"""
GOLD = {"_target_": "lit_llm.feedback.rule.reward", "_partial_": True}
SETTINGS = {
    **{"n": 4, "prompts": 2, "model": "instruction_tuning", "proxy": "reward_modeling", "gold": GOLD},
    **{"max_new_tokens": 4, "temperature": 0.9, "seed": 0, "batch_size": 8},
}


@pytest.fixture
def runs(tmp_path):
    tokenizer = train_bpe(["Hello? The cat sat on the mat."] * 5, 300, show_progress=False)
    torch.manual_seed(0)
    model = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=64))
    found = {}
    for name, made in {"instruction_tuning": model, "reward_modeling": ScoreModel.from_language_model(model)}.items():
        save_model(tmp_path / name / "model", made, tokenizer)
        (tmp_path / name / "config.yaml").write_text(RUN)
        found[name] = tmp_path / name
    items = tuple(Prompt((Message("user", text),)) for text in ("The cat?", "Hello?", "mat sat"))
    write_heldout(tmp_path / "instruction_tuning" / "heldout", Heldout("prompts", "prompts", items))
    return found


@pytest.fixture
def measured(monkeypatch):
    """How often something was really sampled."""
    found, measure = [], best_of_n_control.measure_best_of_n
    monkeypatch.setattr(best_of_n_control, "measure_best_of_n", lambda *a, **k: found.append(1) or measure(*a, **k))
    return found


def write(tmp_path, runs, name="out", **changes):
    (tmp_path / name).mkdir(exist_ok=True)
    config = {"cache_dir": str(tmp_path / "cache" / "stages"), "best_of_n": {**SETTINGS, **changes}}
    return best_of_n_control.write_best_of_n(config, tmp_path / name, Models(runs))


def test_it_is_measured_once_for_the_same_models_prompts_and_settings(runs, tmp_path, measured):
    first = json.loads(write(tmp_path, runs).read_text())
    assert [point["n"] for point in first["points"]] == [1, 2, 4] and first["prompts"] == 2
    assert {"proxy", "gold", "kl"} <= set(first["points"][0]) and first["seconds"] > 0
    again = json.loads(write(tmp_path, runs, "again").read_text())
    assert again == first and len(measured) == 1
    write(tmp_path, runs, seed=1)
    write(tmp_path, runs, gold=None)
    assert len(measured) == 3
    torch.manual_seed(1)
    loaded = Models(runs).loaded("instruction_tuning")
    save_model(runs["instruction_tuning"] / "model", LanguageModel(loaded.model.config), loaded.tokenizer)
    write(tmp_path, runs)
    assert len(measured) == 4, "another model"


def test_its_key_holds_the_code_that_measures_the_packages_and_the_device(runs, tmp_path, measured, monkeypatch):
    hashed = []

    def code_hashes(config):
        hashed.append(code_hash.code_hashes(config))
        return hashed[-1]

    monkeypatch.setattr(best_of_n_control, "code_hashes", code_hashes)
    write(tmp_path, runs, gold=None)
    sampling = {"lit_llm.evaluation.best_of_n", "lit_llm.generation.sampling", "lit_llm.rewards.learned"}
    assert sampling <= set(hashed[0])
    monkeypatch.setattr(best_of_n_control, "versions", lambda: {"torch": "0"})
    write(tmp_path, runs, gold=None)
    assert len(measured) == 2, "another torch"


def test_a_damaged_result_in_the_cache_is_measured_again(runs, tmp_path, measured):
    write(tmp_path, runs)
    (file,) = (tmp_path / "cache" / "best_of_n").iterdir()
    file.write_text('{"points": [')
    assert json.loads(write(tmp_path, runs).read_text())["points"] and len(measured) == 2


@pytest.mark.parametrize(
    ("changes", "why"), [({"proxy": "nothing"}, "no step nothing"), ({"gold": {"folder": "@gone"}}, "no step gone")]
)
def test_what_the_chain_has_not_leaves_it_out(runs, tmp_path, caplog, changes, why):
    caplog.set_level("INFO", "lit_llm")
    assert write(tmp_path, runs, **changes) is None and why in caplog.text
    assert write(tmp_path, runs, n=0) is None


def test_a_gold_model_is_another_step_s(runs, tmp_path):
    gold = {"_target_": "lit_llm.rewards.learned.LearnedReward", "folder": "@reward_modeling"}
    points = json.loads(write(tmp_path, runs, gold=gold).read_text())["points"]
    assert [point["gold"] for point in points] == [point["proxy"] for point in points]


def test_a_model_of_ones_own_stands_in_for_its_step(runs, tmp_path):
    outputs = {name: run / "model" for name, run in runs.items()}
    (tmp_path / "out").mkdir()
    own = Models({"reward_modeling": runs["reward_modeling"]}, outputs)
    own.add("ppo", runs["instruction_tuning"], "reward_modeling")
    config = {"cache_dir": str(tmp_path / "cache" / "stages"), "best_of_n": SETTINGS}
    assert json.loads(best_of_n_control.write_best_of_n(config, tmp_path / "out", own).read_text())["points"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("best_of_n.n=1", "best_of_n.n=1: must be 2 or more"),
        ("best_of_n.proxy=reward_model", "did you mean reward_modeling"),
        ("best_of_n.prompts=0", "best_of_n.prompts=0"),
        ("best_of_n.gold={_target_: lit_llm.feedback.rule.rewrad}", "best_of_n.gold"),
    ],
)
def test_mistakes_are_found_before_anything_runs(word, message):
    from lit_llm.config.command_line import compose
    from lit_llm.config.schema import plain

    try:
        findings = list(findings_in(plain(compose("pipeline", [word]))))
    except UserError as error:
        findings = [str(error)]
    assert any(message in finding for finding in findings), findings


def test_it_samples_and_scores_in_the_precision_of_the_prompts_own_evaluation(runs, tmp_path, monkeypatch):
    seen, measure = [], best_of_n_control.measure_best_of_n
    spy = lambda *a, **k: seen.append(torch.is_autocast_enabled("cpu")) or measure(*a, **k)  # noqa: E731
    monkeypatch.setattr(best_of_n_control, "measure_best_of_n", spy)
    write(tmp_path, runs)
    (runs["instruction_tuning"] / "config.yaml").write_text(RUN.replace("32-true", "bf16-mixed"))
    write(tmp_path, runs, "again")
    assert seen == [False, True], "another precision is another result"
