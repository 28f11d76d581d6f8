"""A start that failed leaves no folder; a command that was stopped says how it goes on."""

import shlex
import sys
from pathlib import Path

import pytest

from lit_llm.config import interruption
from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.pipeline.command import refuse_the_user_s
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.run_lock import RunLock
from lit_llm.training.train import prepare


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "outputs/pretraining/now"
    interruption.make(place)
    return filled(place)


def filled(place):
    (place / ".hydra").mkdir(parents=True)
    (place / "run.log").write_text("a line")
    (place / "config.yaml").write_text("seed: 0")
    return place


def test_a_failed_start_leaves_no_folder_and_none_above_it(folder, tmp_path):
    assert interruption.clear(folder) and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("kept", ["notes.txt", "model/config.json", "metrics.json", "checkpoints/step-1.ckpt"])
def test_what_is_worth_something_is_kept(folder, kept):
    (folder / kept).parent.mkdir(exist_ok=True)
    (folder / kept).write_text("{}")
    assert not interruption.clear(folder) and (folder / "config.yaml").is_file() and (folder / kept).is_file()


def test_a_run_that_took_a_step_is_kept(folder, monkeypatch):
    monkeypatch.setattr(interruption, "_begun", set())
    interruption.note_begun(folder)
    assert not interruption.clear(folder) and (folder / "config.yaml").is_file()


@pytest.mark.parametrize("place", ["made before", "link", "link to nothing", "."])
def test_what_was_there_before_the_command_is_kept(place, tmp_path, monkeypatch):
    """A folder with a user's tokenizer and logs looks like a start that failed."""
    there = tmp_path / "made before"
    monkeypatch.chdir(tmp_path)
    if place == "link to nothing":
        (tmp_path / place).symlink_to(there)
        interruption.make(Path(place))
        there.mkdir()
    else:
        there.mkdir()
        (tmp_path / "link").symlink_to(there)
        interruption.make(Path(place))
    filled(there if place != "." else tmp_path)
    assert not interruption.clear(Path(place)) and next(tmp_path.rglob("config.yaml"))


def test_another_process_at_work_keeps_its_folder(folder):
    with RunLock(folder):
        assert not interruption.clear(folder)
    assert (folder / "config.yaml").is_file() and interruption.clear(folder)


def test_empty_folders_of_the_user_s_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    interruption.make(Path("outputs/a/b"))
    assert interruption.clear(filled(tmp_path / "outputs/a/b")) and not list((tmp_path / "outputs").iterdir())


def test_of_a_sweep_only_new_jobs_are_removed(tmp_path):
    filled(tmp_path / "0")
    interruption.make_sweep(tmp_path)
    assert not interruption.clear(tmp_path / "0") and interruption.clear(filled(tmp_path / "1"))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_the_line_that_goes_on_is_quoted_for_the_shell_and_for_hydra(tmp_path, monkeypatch):
    place = tmp_path / "a b=c"
    place.mkdir()
    monkeypatch.setattr(interruption, "_begun", {place.resolve()})
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    monkeypatch.setattr(interruption, "given", ["--config-dir", "my conf", "allowed_targets=[my.]", "seed=1"])
    line = interruption.how_to_go_on(place, "run").partition("with: ")[2]
    assert shlex.split(line) == [
        "python", "scripts/train.py", "--config-dir", "my conf", "allowed_targets=[my.]", f"resume='{place}'",
    ]  # fmt: skip
    sweep = shlex.split(interruption.how_to_go_on(place / "0", "sweep").partition("with: ")[2])
    assert sweep[-1] == f"hydra.sweep.dir='{place}'" and "seed=1" in sweep


@pytest.mark.parametrize("theirs", ["config.yaml", "tokenizer/sp.model", "model/config.json"])
def test_a_run_writes_over_nothing_of_the_user_s(theirs, tmp_path):
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("mine")
    with pytest.raises(UserError, match="is no run's and would be written over"):
        prepare(compose("train", []), RunFolder(tmp_path))
    assert (tmp_path / theirs).read_text() == "mine"


@pytest.mark.parametrize("theirs", ["config.yaml", "dpo"])
def test_a_pipeline_writes_over_nothing_of_the_user_s(theirs, tmp_path):
    (tmp_path / theirs).write_text("mine: 1")
    with pytest.raises(UserError, match="is no pipeline's"):
        refuse_the_user_s(tmp_path, ["dpo"])
    (tmp_path / theirs).unlink()
    (tmp_path / "config.yaml").write_text("stages: {}")
    (tmp_path / "dpo").symlink_to(tmp_path)
    refuse_the_user_s(tmp_path, ["dpo"])
