"""The chain's logic on stages that only pretend: order, keys, reuse, drift, from= (the real one: test_chain)."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from lit_llm import code_closure, pipeline
from lit_llm.command_line import compose, rewrite
from lit_llm.errors import UserError
from lit_llm.run_folder import write_json
from lit_llm.stage_cache import StageCache

KEPT = ["pretraining", "continued_pretraining", "fine_tuning", "instruction_tuning"]
ALL = [*KEPT, "rankings", "reward_modeling", "ppo", "dpo"]


@pytest.fixture
def ran(monkeypatch):
    """The names of the steps that were computed; what they write depends on their configuration."""
    done: list[str] = []

    def execute(cfg, folder: Path):
        done.append(folder.name.rpartition("-")[0])
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text(json.dumps(str(cfg.optimizer.lr)))
        write_json(folder / "metrics.json", {"objective": float(cfg.optimizer.lr), "heldout": {}})
        return {}

    def collect(_config, folder: Path, output: Path):
        done.append("rankings")
        output.mkdir(parents=True)
        (output / "train.jsonl").write_text("{}\n")
        write_json(folder / "metrics.json", {"stage": "rankings"})

    monkeypatch.setattr("lit_llm.pipeline.gc.collect", lambda: 0)
    monkeypatch.setattr("lit_llm.run.execute", execute)
    monkeypatch.setattr("lit_llm.collection.collect", collect)
    monkeypatch.setattr("lit_llm.closing.close", lambda *_: None)
    return done


@pytest.fixture(scope="module")
def default():
    return compose("pipeline", [])


def changed(default, words: list[str]):
    """The default with overrides. Composing again takes a second, so only where a group is chosen."""
    words = rewrite("pipeline", words)
    if any("@" in word.partition("=")[0] for word in words):
        return compose("pipeline", words)
    cfg = copy.deepcopy(default)
    for word in words:
        key, _, value = word.partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


@pytest.fixture
def run(tmp_path, ran, default):
    """Runs the default chain on one file of data with overrides; returns the steps computed."""
    (tmp_path / "data.txt").write_text("text")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    own = [f"stages.{name}.data.path={tmp_path}/data.txt" for name in [*KEPT, "ppo"]]
    own += [f"stages.continued_pretraining.data.replay_path={tmp_path}/data.txt"]
    own += [f"cache_dir={tmp_path}/cache", f"rankings.prompts={tmp_path}/prompts.jsonl"]

    def go(*words: str, name: str = "one") -> list[str]:
        ran.clear()
        pipeline.run_pipeline(changed(default, [*own, *words]), tmp_path / name)
        return list(ran)

    return go


def test_every_step_runs_after_what_it_needs_and_is_linked(run, tmp_path):
    assert run() == ALL
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_symlink()) == sorted(ALL)
    assert not (tmp_path / "one/ppo").readlink().is_absolute()
    assert json.loads((tmp_path / "one/pipeline.json").read_text())["stages"]["ppo"]["reused"] is False


def test_what_is_finished_and_unchanged_is_reused(run):
    run()
    assert run(name="two") == []


@pytest.mark.parametrize(
    ("word", "again"),
    [
        ("stages.ppo.kl_coef=0.3", ["ppo"]),
        ("stages.ppo.optimizer.lr=0.7", ["ppo"]),
        ("stages.dpo.loss=ipo", ["dpo"]),
        ("rankings.k=3", ["rankings"]),  # the pretended rankings are the same bytes: what follows is unchanged
        ("stages.instruction_tuning.optimizer.lr=0.5", ALL[3:]),
        ("stages.pretraining.optimizer.lr=0.5", ["pretraining", "continued_pretraining"]),
        ("stages.pretraining.trainer.progress=false", []),
        ("stages.pretraining.data.num_workers=2", []),
    ],
)
def test_a_change_recomputes_what_it_reaches(run, word, again):
    run()
    assert run(word, name="two")[: len(again)] == again
    assert run(word, name="three") == []


def test_changed_data_is_new_data_under_the_same_name(run, tmp_path):
    run()
    (tmp_path / "data.txt").write_text("other text")
    assert run(name="two")[:2] == ["pretraining", "continued_pretraining"]


def test_a_sweep_of_the_last_stage_pretrains_once(run):
    assert run("stages.ppo.kl_coef=0.02").count("pretraining") == 1
    assert run("stages.ppo.kl_coef=0.1", name="two") == ["ppo"]


def test_a_drifted_cache_is_refused_by_the_file_s_name(run, tmp_path):
    run()
    model = next((tmp_path / "cache").glob("fine_tuning-*")) / "model/config.json"
    model.write_text(model.read_text() + " ")
    with pytest.raises(UserError, match=r"fine_tuning-\w+/model/config.json: its bytes differ.*delete"):
        run(name="two")


def test_from_recomputes_from_there_on(run):
    run()
    assert run("from=instruction_tuning", name="two") == ALL[3:]


def test_from_demands_the_earlier_steps(run):
    with pytest.raises(UserError, match="from=ppo: pretraining comes before it and is not in the cache"):
        run("from=ppo")


def test_from_with_a_model_of_ones_own(run, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    assert run("from=instruction_tuning", f"init_from={own}") == ALL[3:]
    with pytest.raises(UserError, match="no model folder"):
        run("from=instruction_tuning", f"init_from={tmp_path}/nothing", name="two")


def test_skipping_a_step_skips_what_needs_it(run):
    assert run("skip=[reward_modeling]") == [name for name in ALL if name not in ("reward_modeling", "ppo")]


def test_a_failed_step_stops_the_chain_and_is_run_again(run, monkeypatch, ran, tmp_path):
    import lit_llm.run

    good = lit_llm.run.execute

    def failing(cfg, folder):
        if "fine_tuning" in folder.name:
            raise UserError("data.path: empty")
        return good(cfg, folder)

    monkeypatch.setattr("lit_llm.run.execute", failing)
    with pytest.raises(UserError, match=r"fine_tuning: data\.path: empty"):
        run()
    assert ran == ["pretraining", "continued_pretraining"] and not (tmp_path / "one/ledger.json").exists()
    monkeypatch.setattr("lit_llm.run.execute", good)
    assert run(name="two") == ALL[2:]


def test_an_interrupted_step_goes_on_in_its_folder(run, monkeypatch, caplog):
    import lit_llm.run

    seen = []

    def killed(cfg, folder):
        folder.mkdir(parents=True)
        write_json(folder / "run.json", {"status": "running"})
        seen.append((folder, cfg.resume))
        raise KeyboardInterrupt

    good = lit_llm.run.execute
    monkeypatch.setattr("lit_llm.run.execute", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr("lit_llm.run.execute", good)
    with caplog.at_level(logging.INFO):
        run(name="two")
    assert seen[0][1] == "auto" and f"was interrupted, goes on in {seen[0][0]}" in caplog.text


def test_what_changed_is_said(run, caplog):
    run()
    with caplog.at_level(logging.INFO):
        run("stages.ppo.kl_coef=0.3", name="two")
    assert "ppo: computed anew, since these changed: config stage.kl_coef" in caplog.text


def test_steps_that_wait_for_each_other_are_refused():
    cfg = compose("pipeline", ["stages.pretraining.init_from='@ppo'"])
    with pytest.raises(UserError, match="wait for each other"):
        pipeline.plan(cfg, Path("unused"))


# The code in the hash


def test_the_closure_holds_what_a_stage_imports_and_not_what_only_shows_it():
    found = code_closure.closure(["lit_llm.stages.reward_modeling"])
    assert {"lit_llm.stages.base", "lit_llm.objectives.ranking", "lit_llm.backbone.transformer"} <= found
    assert not [name for name in found if name.startswith(("lit_llm.stages.ppo", "lit_llm.report."))]
    assert "lit_llm.reporting" in code_closure.code_hashes({})  # what a run measures


def test_the_hash_sees_code_and_not_comments(tmp_path, monkeypatch):
    file = tmp_path / "m.py"
    monkeypatch.setattr(code_closure, "module_file", lambda _: file)

    def hashed(text: str) -> str:
        file.write_text(text)
        code_closure._hash.cache_clear()
        return code_closure._hash("m")

    first = hashed('"""Doc."""\nx = 1  # one\n')
    assert hashed('"""Other."""\nx = 1\n') == first
    assert hashed("x = 2\n") != first
    code_closure._hash.cache_clear()


def test_outputs_are_the_model_without_the_time_of_its_making(tmp_path):
    cache = StageCache(tmp_path)
    hashes = []
    for time in ("now", "later"):
        folder = tmp_path / f"ppo-{time}"
        (folder / "model").mkdir(parents=True)
        (folder / "model/model.safetensors").write_text("w")
        (folder / "model/lineage.json").write_text(time)
        (folder / "metrics.json").write_text(time)
        cache.finish(folder, {})
        hashes.append(cache.output_hash(folder))
    assert hashes[0] == hashes[1]


def test_references_are_found_at_any_depth():
    config = {"a": "@x", "b": [{"c": "@y/collected"}, "mail@z"], "d": 1}
    assert pipeline.references(OmegaConf.to_container(OmegaConf.create(config))) == ["x", "y"]
