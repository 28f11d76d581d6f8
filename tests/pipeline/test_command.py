"""The chain's logic on stages that only pretend: order, keys, reuse, drift, start_from= (the real one: test_chain)."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from lit_llm.config import pipeline_steps, schema
from lit_llm.config.command_line import compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.lineage import code_hash
from lit_llm.lineage.input_hash import data_hashes
from lit_llm.pipeline import command as pipeline
from lit_llm.pipeline.cache import StageCache
from lit_llm.runtime.run_folder import write_json

KEPT = ["pretraining", "continued_pretraining", "fine_tuning", "instruction_tuning"]
ALL = [*KEPT, "rankings", "flag_classification", "reward_modeling", "ppo", "dpo"]


GIVEN: dict[str, list[str]] = {}
"""By the name of a step that was computed, the held-out sets of earlier steps that its data was given."""


@pytest.fixture
def ran(monkeypatch):
    """The names of the steps that were computed; what they write depends on their configuration."""
    done: list[str] = []
    GIVEN.clear()

    def execute(cfg, folder: Path):
        done.append(folder.name.rpartition("-")[0])
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text(json.dumps(str(cfg.optimizer.lr)))
        told = {"stage": done[-1], "steps": 1, "seconds": 1.0, "objective_name": "loss", "heldout": {}}
        write_json(folder / "metrics.json", told | {"objective": float(cfg.optimizer.lr)})
        (folder / "heldout").mkdir()
        (folder / "heldout/set.jsonl").write_text(json.dumps({"text": f"{done[-1]} {cfg.data.test_fraction}"}))
        GIVEN[done[-1]] = list(cfg.data.earlier_heldout)
        return {}

    def collect(_config, folder: Path, output: Path, _allowed):
        done.append("rankings")
        output.mkdir(parents=True)
        (output / "train.jsonl").write_text("{}\n")
        write_json(folder / "metrics.json", {"stage": "rankings"})

    monkeypatch.setattr("lit_llm.pipeline.command.give_back_freed_memory", lambda: False)
    monkeypatch.setattr("lit_llm.training.command.execute", execute)
    monkeypatch.setattr("lit_llm.pipeline.rankings.collect", collect)
    monkeypatch.setattr("lit_llm.pipeline.final_evaluation.evaluate_pipeline", lambda *_: None)
    return done


@pytest.fixture(scope="module")
def default():
    return compose("pipeline", [])


def changed(default, words: list[str]):
    """The default with overrides. Composing again takes a second, so only where a group is chosen."""
    words = hydra_words("pipeline", words)
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
    own += [f"cache_dir={tmp_path}/cache", f"annotation.prompts={tmp_path}/prompts.jsonl"]

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


def test_one_seed_is_that_of_every_stage_and_of_the_simulated_annotators():
    values = schema.plain(compose("pipeline", ["seed=3", "stages.ppo.seed=5"]))
    seeds = {name: stage["seed"] for name, stage in values["stages"].items()}
    assert seeds == {name: 5 if name == "ppo" else 3 for name in ALL if name != "rankings"}
    assert values["annotation"]["seed"] == 3


def test_what_is_finished_and_unchanged_is_reused(run, tmp_path):
    run()
    (tmp_path / "one/ppo/tasks.json").write_text("{}")  # a stage may be asked tasks later
    assert run(name="two") == []


def test_a_change_recomputes_what_it_reaches(run):
    run()
    for number, (word, again) in enumerate([
        ("stages.ppo.stage.kl_coef=0.3", ["ppo"]),
        ("loss@stages.dpo.stage.loss=ipo", ["dpo"]),
        ("annotation.k=3", ["rankings"]),  # the pretended rankings are the same bytes: what follows is unchanged
        ("stages.instruction_tuning.optimizer.lr=0.5", ALL[3:]),
        ("stages.pretraining.optimizer.lr=0.5", ["pretraining", "continued_pretraining"]),
    ]):  # fmt: skip
        assert run(word, name=f"changed{number}")[: len(again)] == again, word
        if number in (0, 4):  # a late step, and the first one
            assert run(word, name=f"again{number}") == [], word
    assert run("stages.pretraining.data.num_workers=2", name="workers") == []


def test_no_stage_trains_what_one_before_it_holds_out(run, tmp_path):
    mine = tmp_path / "data.txt"
    run("stages.ppo.data.decontaminate_words=0", f"stages.dpo.data.earlier_heldout=[{mine}]")
    places = {path.name: path.resolve() / "heldout" for path in (tmp_path / "one").iterdir() if path.is_symlink()}
    learned = [name for name in ALL if name != "rankings"]
    for number, name in enumerate(learned):
        wanted = [str(places[before]) for before in learned[:number]] if name != "ppo" else []
        found = [str(Path(place).resolve()) for place in GIVEN[name]]
        assert found == ([str(mine.resolve())] if name == "dpo" else []) + wanted


def test_another_split_of_an_earlier_stage_s_data_trains_the_later_ones_anew(run):
    run()
    assert run("stages.ppo.data.test_fraction=0.1", name="two") == ["ppo", "dpo"]
    again = [*ALL[2:4], *ALL[5:]]  # the pretended models and rankings are the same bytes
    assert run("stages.fine_tuning.data.test_fraction=0.1", name="three") == again
    off = "stages.dpo.data.decontaminate_words=0"
    assert run(off, name="four") == ["dpo"]
    assert run("stages.fine_tuning.data.test_fraction=0.1", off, name="five") == []


def test_changed_data_is_new_data_under_the_same_name(run, tmp_path):
    run()
    (tmp_path / "data.txt").write_text("other text")
    assert run(name="two")[:2] == ["pretraining", "continued_pretraining"]


def test_a_sweep_of_the_last_stage_pretrains_once(run):
    assert run("stages.ppo.stage.kl_coef=0.02").count("pretraining") == 1
    assert run("stages.ppo.stage.kl_coef=0.1", name="two") == ["ppo"]


def test_a_drifted_cache_is_refused_by_the_file_s_name(run, tmp_path):
    run()
    model = next((tmp_path / "cache").glob("fine_tuning-*")) / "model/config.json"
    model.write_text(model.read_text() + " ")
    with pytest.raises(UserError, match=r"fine_tuning-\w+/model/config.json: its bytes differ.*delete"):
        run(name="two")


def test_from_recomputes_from_there_on(run):
    run()
    assert run("start_from=instruction_tuning", name="two") == ALL[3:]


def test_from_leaves_what_other_pipelines_show(run, ran, tmp_path):
    run()
    first = (tmp_path / "one/fine_tuning").resolve()
    run("start_from=fine_tuning", name="two")
    second = (tmp_path / "two/fine_tuning").resolve()
    assert first.is_dir() and second.name == f"{first.name}.2"
    assert run(name="three") == []
    assert (tmp_path / "three/fine_tuning").resolve() == second
    run("start_from=fine_tuning", name="four")
    assert (tmp_path / "four/fine_tuning").resolve().name == f"{first.name}.3"
    assert (tmp_path / "one/ppo/model/config.json").is_file() and len(ran) == 7


def test_an_interrupted_recomputation_goes_on_in_its_folder(tmp_path):
    cache = StageCache(tmp_path)
    first = cache.folder("ppo", "k")
    first.mkdir()
    assert cache.folder("ppo", "k") == cache.folder("ppo", "k", anew=True) == first
    cache.finish(first, {})
    second = cache.folder("ppo", "k", anew=True)
    second.mkdir()
    assert cache.folder("ppo", "k", anew=True) == second and cache.folder("ppo", "k") == first
    cache.finish(second, {})
    assert cache.folder("ppo", "k") == second


def test_from_demands_the_earlier_steps(run):
    with pytest.raises(UserError, match="start_from=ppo: pretraining comes before it and is not in the cache"):
        run("start_from=ppo")


def test_from_with_a_model_of_ones_own(run, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    assert run("start_from=instruction_tuning", f"init_from={own}") == ALL[3:]
    with pytest.raises(UserError, match="no such folder; give a model folder"):
        run("start_from=instruction_tuning", f"init_from={tmp_path}/nothing", name="two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "computed"),
    [
        ("continued_pretraining", ALL[1:]),
        ("rankings", ["rankings", "flag_classification", "reward_modeling", "ppo", "dpo"]),
        ("flag_classification", ["rankings", "flag_classification", "reward_modeling", "ppo"]),
        ("ppo", ["rankings", "flag_classification", "reward_modeling", "ppo"]),
        ("dpo", ["rankings", "dpo"]),
    ],
)
def test_every_step_can_start_from_a_model_of_ones_own(run, tmp_path, monkeypatch, start, computed):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert run(f"start_from={start}", "init_from=own") == computed


def test_the_first_step_starts_from_nothing_that_a_model_could_replace(run, tmp_path):
    with pytest.raises(UserError, match="pretraining starts from no other step's model"):
        run("start_from=pretraining", f"init_from={tmp_path}")


def test_what_does_not_come_before_the_start_is_not_demanded(run):
    run("skip=[dpo]")
    assert run("start_from=ppo", name="two") == ["ppo", "dpo"]
    with pytest.raises(UserError, match="start_from=ppo: is not among the steps"):
        run("start_from=ppo", "skip=[ppo]", name="three")


def test_skipping_a_step_skips_what_needs_it(run):
    assert run("skip=[reward_modeling]") == [name for name in ALL if name not in ("reward_modeling", "ppo")]
    with pytest.raises(UserError, match=r"skip=\[pretraining\]: nothing is left to run, .* skip fewer"):
        run("skip=[pretraining]", name="two")


def test_a_failed_step_stops_the_chain_and_is_run_again(run, monkeypatch, ran, tmp_path):
    import lit_llm.training.command

    good = lit_llm.training.command.execute

    def failing(cfg, folder):
        if "fine_tuning" in folder.name:
            raise UserError("data.path: empty")
        return good(cfg, folder)

    monkeypatch.setattr("lit_llm.training.command.execute", failing)
    with pytest.raises(UserError, match=r"fine_tuning: data\.path: empty"):
        run()
    assert ran == ["pretraining", "continued_pretraining"] and not (tmp_path / "one/ledger.json").exists()
    monkeypatch.setattr("lit_llm.training.command.execute", good)
    assert run(name="two") == ALL[2:]


def test_an_interrupted_step_goes_on_in_its_folder(run, monkeypatch, caplog):
    import lit_llm.training.command

    seen = []

    def killed(cfg, folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", {"status": "running"})
        seen.append((folder, cfg.resume))
        raise KeyboardInterrupt

    good = lit_llm.training.command.execute
    monkeypatch.setattr("lit_llm.training.command.execute", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr("lit_llm.training.command.execute", good)
    with caplog.at_level(logging.INFO):
        run(name="two")
    assert seen[0][1] == "auto" and f"was interrupted, goes on in {seen[0][0]}" in caplog.text


def test_what_changed_is_said(run, caplog):
    run()
    with caplog.at_level(logging.INFO):
        run("stages.ppo.stage.kl_coef=0.3", name="two")
    assert "ppo: computed anew, since these changed: config stage.kl_coef" in caplog.text


def test_steps_that_wait_for_each_other_are_refused():
    cfg = compose("pipeline", ["stages.pretraining.init_from='@ppo'"])
    with pytest.raises(UserError, match="wait for each other"):
        pipeline.plan(cfg, Path("unused"))


# The code in the hash


def test_the_closure_holds_what_a_stage_imports_and_not_what_only_shows_it():
    found = code_hash.closure(["lit_llm.stages.reward_modeling"])
    assert {"lit_llm.stages.base", "lit_llm.objectives.ranking", "lit_llm.backbone.transformer"} <= found
    assert not [name for name in found if name.startswith(("lit_llm.stages.ppo", "lit_llm.report."))]
    assert "lit_llm.training.finalize" in code_hash.code_hashes({})  # what a run measures


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
    config = {"a": "@x", "b": [{"c": "@y/collected"}, "mail@z"], "d": 1, "path": {"@w": 0.5, "file": 2}}
    assert pipeline_steps.references(OmegaConf.to_container(OmegaConf.create(config))) == ["x", "y", "w"]


def test_rankings_and_files_of_ones_own_are_mixed_in_a_list(run, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    word = f"stages.reward_modeling.data.path=['@rankings', '{more}']"
    assert run(word) == ALL
    path = OmegaConf.load(tmp_path / "one/config.yaml").stages.reward_modeling.data.path
    assert list(path) == ["@rankings", str(more)]
    more.write_text('{"prompt": "a", "chosen": "b", "rejected": "d"}\n')
    assert run(word, name="two") == ["reward_modeling"]


# What else goes into the key


def test_the_code_of_the_users_own_modules_counts_with_what_they_import(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("import own_words\nimport json\n")
    (tmp_path / "own_words.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"reward": {"_target_": "own_rewards.Score"}, "other": "torch.optim.AdamW", "file": "data.jsonl"}
    found = code_hash.code_hashes(config)
    assert {"own_rewards", "own_words", "torch.optim"} <= set(found)
    assert not {"json", "torch.optim.adamw", "data"} & set(found)


def test_what_the_environment_holds_counts_and_is_not_told(monkeypatch):
    config = {"lr": "${oc.env:RATE_OF_TEST}", "other": "${oc.env:NOT_SET_OF_TEST,1}"}
    monkeypatch.setenv("RATE_OF_TEST", "secret")
    first, identity = schema.environment(config), schema.identity(config)
    assert list(first) == ["RATE_OF_TEST"] and "secret" not in str(first)
    monkeypatch.setenv("RATE_OF_TEST", "public")
    assert schema.environment(config) != first and schema.identity(config) != identity


def test_the_environment_is_in_the_key(run, monkeypatch):
    monkeypatch.setenv("RATE_OF_TEST", "0.25")
    run("stages.ppo.optimizer.lr=${oc.env:RATE_OF_TEST}")
    assert run("stages.ppo.optimizer.lr=${oc.env:RATE_OF_TEST}", name="two") == []
    monkeypatch.setenv("RATE_OF_TEST", "0.5")
    assert run("stages.ppo.optimizer.lr=${oc.env:RATE_OF_TEST}", name="three") == ["ppo"]


def test_what_auto_became_is_in_the_key(run, monkeypatch):
    run()
    monkeypatch.setattr("lit_llm.training.trainer.precision", lambda *_: "other")
    assert run("skip=[rankings]", name="two") == KEPT


@pytest.mark.parametrize(
    ("key", "value", "file"),
    [
        ("init_from", "base", "base/model.safetensors"),
        ("stage.reward.folder", "~/base", "base/sub/config.json"),
        ("stage.template", "./one.jinja", "one.jinja"),
        ("tokenizer.file", "one.json", "one.json"),
    ],
)
def test_whatever_a_value_names_on_this_disk_counts(tmp_path, monkeypatch, key, value, file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base/sub").mkdir(parents=True)
    config = {"data": {"path": []}, **OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}"]))}
    hashes = []
    for text in ("a", "b"):
        (tmp_path / file).write_text(text)
        hashes.append(data_hashes(config))
    assert hashes[0] != hashes[1]


def test_names_and_splits_of_data_count_and_its_place_does_not(tmp_path):
    def hashed(folder: Path, name: str) -> dict[str, str]:
        folder.mkdir()
        (folder / "train.jsonl").write_text('{"text": "a"}\n')
        (folder / name).write_text('{"text": "b"}\n')
        return data_hashes({"data": {"path": str(folder)}})

    first = hashed(tmp_path / "one", "validation.jsonl")
    assert hashed(tmp_path / "two", "validation.jsonl") == first
    assert hashed(tmp_path / "three", "test.jsonl") != first


def test_a_place_told_by_the_environment_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE_OF_TEST", str(tmp_path))
    config = {"data": {"path": "${oc.env:PLACE_OF_TEST}/train.jsonl"}}
    hashes = []
    for text in ("a", "b"):
        (tmp_path / "train.jsonl").write_text(text)
        hashes.append(data_hashes(config))
    assert hashes[0] != hashes[1]
