"""A search: what it runs, how its trials end, and that a study that was stopped goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lit_llm.config.conf_files import conf_folder
from lit_llm.config.search_keys import OptunaOptions
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json
from lit_llm.training import sweep
from lit_llm.training.search.trial import current, told, untold

optuna = pytest.importorskip("optuna")
import sqlalchemy  # noqa: E402

from lit_llm.training.search.sweeper import OptunaSweeper  # noqa: E402

SPACE = ["lr=tag(log, interval(1e-5,1e-1))", "optimizer=choice(adamw,muon)", "depth=range(1,5)", "seed=7"]


def score(words):
    """The best are 1e-3, muon and 3."""
    values = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(words)}
    assert values["seed"] == 7
    return (math.log10(values["lr"]) + 3) ** 2 + (values["optimizer"] == "adamw") + abs(values["depth"] - 3)


class Jobs:
    """Hydra's launcher, whose jobs take no time: each leaves ``job.json`` as a run does."""

    def __init__(self, folder, ends):
        self.folder, self.ends, self.begun, self.batches = folder, ends, [], []

    def launch(self, job_overrides, initial_job_idx):
        found = []
        self.batches.append((initial_job_idx, len(job_overrides)))
        for number, words in enumerate(job_overrides, initial_job_idx):
            self.begun.append((number, *words))
            place = self.folder / str(number)
            write_json(place / "job.json", self.ends(number, {"status": "finished", "objective": score(words)}))
            whole = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(place)}}})
            found.append(SimpleNamespace(hydra_cfg=whole))
        return found


def finished(_, result):
    return result


def search(folder, *words, ends=finished, **options):
    """Runs a sweep of ``SPACE`` in ``folder``. Returns its jobs: (number, overrides) of each."""
    search.begun = []
    sweeper = OptunaSweeper(**{"n_trials": 12, "monitor": None, **options})
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    sweeper.validate_batch_is_legal = lambda _: None
    sweeper.launcher = Jobs(folder, ends)
    try:
        sweeper.sweep([*SPACE, *words])
    finally:
        search.begun, search.batches = sweeper.launcher.begun, sweeper.launcher.batches
    return sweeper.launcher.begun


def told_of(folder):
    return json.loads((folder / "study.json").read_text())


def test_the_file_of_the_group_gives_every_option():
    values = yaml.safe_load((conf_folder() / "hydra/sweeper/optuna.yaml").read_text())
    assert (values.pop("_target_"), values.pop("_recursive_")) == (OptunaOptions.TARGET, False)
    assert OptunaOptions(**values) == OptunaOptions()
    assert [*values] == [field.name for field in dataclasses.fields(OptunaOptions)]


def test_a_search_is_better_than_draws_by_chance_and_marks_what_failed(tmp_path):
    """TPE's later trials against the same number of random ones, each the mean over two seeds."""

    def ends(number, result):
        return {"status": "failed: ValueError", "objective": 1e30} if number in (2, 5) else result

    means = {"TPESampler": [], "RandomSampler": []}
    for name, found in means.items():
        for seed in range(2):
            folder = tmp_path / f"{name}{seed}"
            options = {"sampler": {"_target_": f"optuna.samplers.{name}"}, "n_trials": 30, "seed": 100 * seed}
            search(folder, ends=ends, storage=str(folder / "study.log"), **options)
            journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
            storage = optuna.storages.JournalStorage(journal)
            trials = optuna.load_study(study_name=folder.name, storage=storage).trials
            found.append(sum(each.value for each in trials[15:]) / 15)
            assert [trials[n].state.name for n in (1, 2, 5)] == ["COMPLETE", "FAIL", "FAIL"]
            best = min((each for each in trials if each.value is not None), key=lambda each: each.value)
            assert told_of(folder)["best"] == {
                "trial": best.number, "objective": best.value, "params": best.params,
            }  # fmt: skip
            assert told_of(folder)["trials"] == {"complete": 28, "fail": 2}
    assert sum(means["TPESampler"]) < 0.7 * sum(means["RandomSampler"])


def test_why_a_trial_failed_is_told_once(tmp_path, caplog):
    def ends(number, result):
        if number == 1:  # as a job of this process, which tells it itself
            sweep.said.add(tmp_path / "1")
        return {"status": f"failed: of {number}", "objective": 1e30} if number in (1, 2) else result

    caplog.set_level("INFO")
    search(tmp_path, ends=ends, n_trials=4)
    assert [line for line in caplog.messages if line.startswith("trial")] == ["trial 1 failed", "trial 2 failed: of 2"]


@pytest.mark.parametrize("storage", [None, "own.log"])
def test_a_study_that_was_killed_goes_on_as_one_that_was_not(tmp_path, storage):
    options = {} if storage is None else {"storage": str(tmp_path / storage)}
    whole = [*search(tmp_path / "whole", **({} if storage is None else {"storage": str(tmp_path / "other.log")}))]

    def killed(number, result):
        if number == 6:
            raise KeyboardInterrupt
        return result

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", ends=killed, **options)
    assert [number for number, *_ in search.begun] == [*range(7)]
    rest = search(tmp_path / "cut", **options)
    assert rest == whole[6:], "trial 6 is run again under its number, and the others are what they would have been"
    assert told_of(tmp_path / "cut") | {"study": "", "storage": ""} == told_of(tmp_path / "whole") | {
        "study": "", "storage": "",
    }  # fmt: skip
    assert search(tmp_path / "cut", **options) == [], "the study has all its trials"
    assert [number for number, *_ in search(tmp_path / "cut", n_trials=14, **options)] == [12, 13]


def test_trials_that_are_proposed_together_are_launched_together(tmp_path):
    search(tmp_path, n_trials=7, at_once=3)
    assert search.batches == [(0, 3), (3, 3), (6, 1)] and told_of(tmp_path)["trials"] == {"complete": 7}


def test_a_study_goes_on_with_its_own_search_alone(tmp_path):
    search(tmp_path, n_trials=2)
    for word, said in (
        ("lr=interval(1e-5,1e-1)", "lr is searched otherwise than before"),
        ("width=1,2", "width was not searched before"),
        ("width=5", "it was begun without width=5"),
    ):
        with pytest.raises(UserError, match=said):
            search(tmp_path, word, n_trials=3)
    assert told_of(tmp_path)["trials"] == {"complete": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": {"_target_": "optuna.samplers.TPE"}}, r"sampler._target_=optuna.samplers.TPE: optuna has no such"),
        ({"sampler": {"_target_": "os.system"}}, r"sampler._target_=os.system: must be a class of optuna"),
        ({"pruner": {"_target_": "optuna.pruners.MedianPruner", "warmup": 3}}, r"pruner.warmup=3: unknown key; there"),
        ({"n_trials": 0}, r"hydra.sweeper.n_trials: 0; must be"),
        ({"monitor": "loss"}, r"hydra.sweeper.monitor: loss; must be a number that validation logs"),
        ({"storage": "a.db"}, r"hydra.sweeper.storage=a.db: must be a database's URL"),
        (
            {"storage": "sqlite:////proc/none/a.db"},
            r"hydra.sweeper.storage=sqlite:////proc/none/a.db: cannot be opened",
        ),
        ({"storage": "mysql://u:secret@h/d"}, r"hydra.sweeper.storage=mysql://u:\*\*\*@h/d: cannot be opened"),
        ({"sampler": None}, r"hydra.sweeper.sampler: None; must be options"),
        ({"sampler": "tpe"}, r"hydra.sweeper.sampler: tpe; must be options"),
        ({"pruner": "median"}, r"hydra.sweeper.pruner: median; must be options"),
        ({"n_trials": "many"}, r"hydra.sweeper.n_trials: many; must be a whole number"),
        ({"trials": 3}, r"hydra.sweeper.trials: unknown key; there are study_name, storage, n_trials"),
        ({"params": "lr"}, r"hydra.sweeper.params: lr; must be a mapping"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_before_the_first_trial(tmp_path, options, said):
    with pytest.raises(UserError, match=said) as caught:
        search(tmp_path, **options)
    assert "\n" not in str(caught.value) and search.begun == []


def test_a_sampler_that_fails_in_the_middle_is_one_line_and_leaves_no_trial_that_runs_for_ever(tmp_path):
    sampler = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": "some"}
    with pytest.raises(UserError, match=r"^hydra.sweeper.sampler: .*'int' and 'str'"):
        search(tmp_path, sampler=sampler)
    assert told_of(tmp_path)["trials"] == {"fail": 1}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_that_another_program_made_is_refused(tmp_path, direction):
    storage = f"sqlite:///{tmp_path}/own.db"
    study = optuna.create_study(storage=storage, study_name="s", direction=direction)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UserError, match="a study of that name that was made by another program"):
        search(tmp_path / "sweep", storage=storage, study_name="s")
    assert len(optuna.load_study(study_name="s", storage=storage).trials) == 1


def test_a_study_goes_on_in_a_folder_that_was_moved_and_from_a_proposal_that_was_cut_short(tmp_path):
    def killed(number, result):
        if number == 1:
            raise KeyboardInterrupt
        return result

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "old", ends=killed, study_name="s")
    cut = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/old/study.db").ask()
    cut.suggest_float("lr", 1e-5, 1e-1, log=True)  # and not the others: a command was killed there
    (tmp_path / "old").rename(tmp_path / "new")
    assert [number for number, *_ in search(tmp_path / "new", n_trials=4, study_name="s")] == [1, 3]
    assert told_of(tmp_path / "new")["trials"] == {"complete": 3, "fail": 1}


def test_a_storage_that_is_locked_is_one_line_and_the_search_goes_on_later(tmp_path, monkeypatch):
    """Another program holds SQLite's file for longer than it is waited for; here that is a moment."""
    whole, engine = search(tmp_path / "whole", n_trials=3), sqlalchemy.engine.create_engine
    monkeypatch.setattr(sqlalchemy.engine, "create_engine", lambda place, **more: engine(
        place, **{**more, "connect_args": {**more["connect_args"], "timeout": 0.1}}
    ))  # fmt: skip
    holder = None

    def locks(number, result):
        nonlocal holder
        if number == 1:
            holder = sqlite3.connect(tmp_path / "cut/study.db")
            holder.execute("begin exclusive")
        return result

    with pytest.raises(UserError, match=r"study.db: .*locked; what was found is kept") as caught:
        search(tmp_path / "cut", ends=locks, n_trials=3)
    assert "\n" not in str(caught.value)
    holder.rollback()
    holder.close()
    assert search(tmp_path / "cut", n_trials=3) == whole[1:]


def test_the_job_is_told_its_trial_and_only_the_compared_step_of_a_pipeline_reports(tmp_path):
    search(tmp_path, n_trials=1, monitor="val/loss")
    with told(tmp_path, 0):
        trial = current()
        assert (trial.study, trial.number, trial.monitor) == (tmp_path.name, 0, "val/loss")
        with untold(unless=False):
            assert current() is None
        with untold(unless=True):
            assert current() == trial
    assert current() is None
    with told(tmp_path, 1):
        assert current() is None
