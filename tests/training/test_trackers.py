"""Invariant: a run is one run in W&B and one in MLflow, with what TensorBoard is told; no secret is in either."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from lit_llm.config import logger_extras
from lit_llm.config.command_line import check, compose
from lit_llm.errors import UserError
from lit_llm.training import loggers
from lit_llm.training.train import run
from tests.training.test_train import SMALL


@pytest.fixture
def words(data, monkeypatch):
    monkeypatch.setenv("SECRET_PLACE", f"{data}/raw_text")  # stands for a secret
    return [*SMALL, "data.path=${oc.env:SECRET_PLACE}", f"data.cache_dir={data}/cache", "trainer.max_steps=2"]


def test_one_run_in_wandb_for_each_job_without_a_network(words, tmp_path, data, monkeypatch):
    client = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for number, rate in enumerate(("1e-3", "2e-3")):  # one process, as a sweep
        given = [*words, "logger=wandb", "logger.mode=offline", f"optimizer.lr={rate}"]
        run(compose("train", given), tmp_path / f"sweep/{number}")
        made = client.run
        config, summary = dict(made.config), dict(made.summary)
        assert config["optimizer"]["lr"] == float(rate) and config["seed"] == 0
        assert config["data"]["path"] == "${oc.env:SECRET_PLACE}"
        assert {"train/loss", "heldout/objective", "trainer/global_step"} <= set(summary)
        assert made.name == f"sweep/{number}" and made.id == (tmp_path / f"sweep/{number}/wandb_run_id").read_text()
    client.finish()
    written = sorted(tmp_path.glob("sweep/*/wandb/offline-run-*/*.wandb"))
    assert [path.parents[2].name for path in written] == ["0", "1"]
    assert not any(f"{data}/raw_text".encode() in path.read_bytes() for path in written)


def test_one_run_in_mlflow_for_each_job_and_a_resumed_one_goes_on(words, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("alembic")
    place = f"sqlite:///{tmp_path}/mlflow.db"
    given = [*words, "logger=mlflow", f"logger.tracking_uri={place}"]
    for number, rate in enumerate(("1e-3", "2e-3")):
        run(compose("train", [*given, f"optimizer.lr={rate}"]), tmp_path / f"sweep/{number}")
    client = tracking.MlflowClient(place)
    (experiment,) = [one for one in client.search_experiments() if one.name == "lit-llm"]
    runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sweep/0", "sweep/1"}
    told = runs["sweep/1"]
    assert told.data.params["optimizer.lr"] == "0.002" and told.data.params["seed"] == "0"
    assert told.data.params["data.path"] == "${oc.env:SECRET_PLACE}"
    assert {"train/loss", "heldout/objective"} <= set(told.data.metrics) and told.info.status == "FINISHED"
    again = loggers.mlflow(tmp_path / "sweep/1", tracking_uri=place)
    again.log_hyperparams({"optimizer.lr": 5.0, "new": 1})  # never changed, which would be an error
    assert again.run_id == told.info.run_id
    found = client.get_run(again.run_id).data.params
    assert found["optimizer.lr"] == "0.002" and found["new"] == "1"


def test_a_missing_package_and_a_wrong_mode_are_one_line(tmp_path, monkeypatch):
    absent = ("wandb", "alembic")
    monkeypatch.setattr(logger_extras, "find_spec", lambda name: None if name in absent else importlib.util)
    with pytest.raises(UserError, match=r"logger=wandb: wandb is missing; pip install 'lit-llm\[wandb\]'"):
        loggers.wandb(tmp_path)
    for extra in ("wandb", "mlflow"):  # told before any data is read, too
        with pytest.raises(UserError, match=rf"^logger={extra}: \w+ is missing; pip install 'lit-llm\[{extra}\]'$"):
            check("train", [f"logger={extra}", f"data.path={tmp_path}"])
    with pytest.raises(UserError, match=r"logger=mlflow: alembic is missing"):
        loggers.mlflow(tmp_path, tracking_uri="sqlite:///x")
    monkeypatch.setattr(logger_extras, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"logger=mlflow: mlflow, sqlalchemy and alembic are missing"):
        loggers.mlflow(tmp_path, tracking_uri="sqlite:///x")
    monkeypatch.setattr(logger_extras, "find_spec", lambda _: importlib.util)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"logger\.mode=on: must be one of online, offline, disabled"):
        loggers.wandb(tmp_path, mode="on")
