"""A search of pipelines: what comes before the searched step is made once, and only the compared step is pruned."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lit_llm.runtime.atomic_files import write_json
from lit_llm.training.search.trial import Pruned, current, told

from .test_command import ALL, default, ran, run  # noqa: F401 (fixtures)

optuna = pytest.importorskip("optuna")


@pytest.fixture
def reporting(run, monkeypatch):  # noqa: F811, ARG001
    """The steps that were told of a trial, by its number; of trial 2 that step is pruned."""
    import lit_llm.training.command

    found: dict[int, list[str]] = {}
    good = lit_llm.training.command.execute

    def execute(cfg, folder):
        if (trial := current()) is not None:
            found.setdefault(trial.number, []).append(folder.name.rpartition("-")[0])
            if trial.number == 2:
                raise Pruned("after step 2, val/loss 9")
        return good(cfg, folder)

    monkeypatch.setattr("lit_llm.training.command.execute", execute)
    return found


def test_a_search_of_a_late_step_makes_what_comes_before_it_once(run, reporting, tmp_path, caplog):  # noqa: F811
    from lit_llm.training.search.sweeper import OptunaSweeper

    computed = {}
    caplog.set_level(logging.INFO)

    class Jobs:
        """Hydra's launcher: each trial is a pipeline, whose objective is the rate of PPO."""

        def launch(self, job_overrides, initial_job_idx):
            found = []
            for number, words in enumerate(job_overrides, initial_job_idx):
                place = tmp_path / str(number)
                try:
                    with told(tmp_path, number):
                        computed[number] = run(*words, name=str(number))
                    objective = json.loads((place / "ppo/metrics.json").read_text())["objective"]
                    result = {"status": "finished", "objective": objective}
                except Pruned as pruned:
                    result = {"status": f"pruned {pruned}", "objective": 1e30}
                write_json(place / "job.json", result)
                whole = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(place)}}})
                found.append(SimpleNamespace(hydra_cfg=whole))
            return found

    sweeper = OptunaSweeper(n_trials=4, params={"stages.ppo.optimizer.lr": "tag(log, interval(1e-6, 1e-3))"})
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    sweeper.validate_batch_is_legal = lambda _: None
    sweeper.launcher = Jobs()
    sweeper.sweep(["stages.fine_tuning.optimizer.lr=0.5"])

    assert computed == {0: ALL, 1: ["ppo"], 3: ["ppo"]}
    assert reporting == {number: ["ppo"] for number in range(4)}
    study = optuna.load_study(study_name=tmp_path.name, storage=f"sqlite:///{tmp_path}/study.db")
    assert [one.state.name for one in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    rates = [one.params["stages.ppo.optimizer.lr"] for one in study.trials if one.number != 2]
    assert study.best_value == pytest.approx(min(rates))
    assert "pruned, the chain stops here" in caplog.text and "failed" not in caplog.text
    assert not (tmp_path / "2/dpo").exists()
