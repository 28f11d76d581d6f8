"""Pruning: a run that is behind the others ends at a validation and is no failure; it reports what it logs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.training.launch import launch
from lit_llm.training.search.pruning import Pruning
from lit_llm.training.search.trial import Pruned, Trial, told
from lit_llm.training.sweep import table
from lit_llm.training.train import run
from tests.training.test_train import ROOT, SMALL

optuna = pytest.importorskip("optuna")

MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}


@pytest.fixture(scope="module")
def words(data):
    more = ["trainer.val_check_interval=2", "evaluation.enabled=false"]
    return [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *more]


def trial_beside(folder, losses, monitor="val/loss"):
    """A trial in a study that holds another one, which reported ``losses`` by step."""
    folder.mkdir(exist_ok=True)
    place = f"sqlite:///{folder}/study.db"
    study = optuna.create_study(storage=place, study_name="s")
    other = study.ask()
    for step, loss in losses.items():
        other.report(loss, step)
    study.tell(other, 0.0)
    trial = Trial(place, "s", study.ask().number, monitor, MEDIAN)
    trial.write(folder)
    return trial, study


def test_a_run_that_is_behind_ends_at_its_validation(words, tmp_path):
    trial, study = trial_beside(tmp_path, {2: 0.1, 4: 0.1, 6: 0.1})
    with told(tmp_path, trial.number), pytest.raises(Pruned, match=r"after step 2, val/loss \d"):
        run(compose("train", words), tmp_path / "run")
    assert [*study.trials[trial.number].intermediate_values] == [2]
    assert not (tmp_path / "run/model").exists() and list((tmp_path / "run/checkpoints").glob("step-*2.ckpt"))


def test_one_that_is_ahead_reports_what_it_logs_and_is_finished(words, tmp_path):
    trial, study = trial_beside(tmp_path, {2: 99.0, 4: 99.0, 6: 0.1})
    with told(tmp_path, trial.number):
        metrics = run(compose("train", words), tmp_path / "run")
    reported = study.trials[trial.number].intermediate_values
    assert [*reported] == [2, 4, 6], "the last validation ends nothing: the run is done"
    assert reported[6] == pytest.approx(metrics["val_loss"]) and metrics["steps"] == 6
    # More is better: the sign is turned. Less than the other trial's best, so that the run is ended.
    trial, study = trial_beside(tmp_path / "more", {2: -99.0}, monitor="-val/general/bits_per_byte")
    with told(tmp_path / "more", trial.number), pytest.raises(Pruned):
        run(compose("train", words), tmp_path / "more/run")
    assert -20 < study.trials[trial.number].intermediate_values[2] < 0


def test_a_number_that_nothing_logs_is_one_line(words, tmp_path):
    trial, _ = trial_beside(tmp_path, {}, monitor="val/general/los")
    with told(tmp_path, trial.number), pytest.raises(UserError, match=r"monitor=val/general/los: nothing logs it"):
        run(compose("train", words), tmp_path / "run")


def test_a_study_that_cannot_be_reached_ends_no_run(tmp_path, caplog):
    """Its table is gone between two validations."""
    trial, _ = trial_beside(tmp_path, {4: 0.1, 6: 0.1})
    pruning = Pruning(trial)
    assert pruning._told(9.0, 2) is False and pruning._told(9.0, 4) is True
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("drop table trial_intermediate_values")
        connection.commit()
    assert pruning._told(9.0, 6) is False
    assert "the validation after step 6 is not reported to the study: hydra.sweeper.storage=" in caplog.text


@pytest.mark.slow
def test_two_processes_end_together_and_count_once(words, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trial, study = trial_beside(tmp_path, {2: 0.1})
    more = ["trainer=ddp", "trainer.accelerator=cpu"]
    with told(tmp_path, trial.number), pytest.raises(Pruned, match=r"after step 2"):
        launch(compose("train", [*words, *more]), tmp_path / "run")
    assert [*study.trials[trial.number].intermediate_values] == [2]


def test_the_leaderboard_tells_pruned_jobs_from_failed_ones(tmp_path):
    rows = [
        {"job": "0", "objective": 2.0, "status": "finished", "overrides": ["a=1"]},
        {"job": "1", "objective": 1e30, "status": "pruned after step 2, val/loss 5.1", "overrides": ["a=2"]},
        {"job": "2", "objective": 1e30, "status": "failed: ValueError: no", "overrides": ["a=3"]},
    ]
    lines = list(table(tmp_path, rows))
    assert "3 jobs, 1 failed, 1 pruned, best first" in lines[0]
    assert lines[3].split(None, 1)[1].startswith("pruned after step 2, val/loss 5.1")


@pytest.mark.slow
def test_a_search_from_the_command_line_and_again(words, tmp_path):
    """Four trials, one of which cannot be run; the same command with more trials goes on with the study."""
    search = ["optimizer.lr=tag(log, interval(1e-4,1e-1))", "data.micro_batch_size=choice(2,-1)", "-m"]
    own = ["hydra/sweeper=optuna", "hydra.sweeper.study_name=rates", f"paths.outputs={tmp_path}"]
    for total in (4, 6):
        line = [sys.executable, str(ROOT / "scripts/train.py"), *words, *search, *own]
        line += [f"hydra.sweeper.n_trials={total}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        jobs = json.loads((tmp_path / "multirun/rates/leaderboard.json").read_text())["jobs"]
        states = [one.state.name for one in optuna.load_study(
            study_name="rates", storage=f"sqlite:///{tmp_path}/multirun/rates/study.db").trials]  # fmt: skip
        assert len(jobs) == len(states) == total and "best first" in done.stdout
        for job in jobs:
            how = "FAIL" if "data.micro_batch_size=-1" in job["overrides"] else "COMPLETE"
            assert states[int(job["job"])] == ("PRUNED" if job["status"].startswith("pruned") else how)
    assert "study rates: goes on, 4 of 6 trials are there" in done.stdout
