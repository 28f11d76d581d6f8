"""A start that failed leaves no folder; a command that was stopped says how it goes on."""

import shlex
import sys

import pytest

from lit_llm import started


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "outputs/pretraining/now"
    (place / ".hydra").mkdir(parents=True)
    (place / "run.log").write_text("a line")
    (place / "config.yaml").write_text("seed: 0")
    return place


def test_a_failed_start_leaves_no_folder_and_none_above_it(folder, tmp_path):
    assert started.clear(folder) and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("kept", ["notes.txt", "model/config.json", "metrics.json", "checkpoints/step-1.ckpt"])
def test_what_is_worth_something_is_kept(folder, kept):
    (folder / kept).parent.mkdir(exist_ok=True)
    (folder / kept).write_text("{}")
    assert not started.clear(folder) and (folder / "config.yaml").is_file() and (folder / kept).is_file()


def test_a_run_that_took_a_step_is_kept(folder, monkeypatch):
    monkeypatch.setattr(started, "_begun", set())
    started.note_begun(folder)
    assert not started.clear(folder) and (folder / "config.yaml").is_file()


def test_the_line_that_goes_on_is_quoted_for_the_shell_and_for_hydra(tmp_path, monkeypatch):
    place = tmp_path / "a b=c"
    place.mkdir()
    monkeypatch.setattr(started, "_begun", {place.resolve()})
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    monkeypatch.setattr(started, "given", ["--config-dir", "my conf", "allowed_targets=[my.]", "seed=1"])
    line = started.how_to_go_on(place, "run").partition("with: ")[2]
    assert shlex.split(line) == [
        "python", "scripts/train.py", "--config-dir", "my conf", "allowed_targets=[my.]", f"resume='{place}'",
    ]  # fmt: skip
    sweep = shlex.split(started.how_to_go_on(place / "0", "sweep").partition("with: ")[2])
    assert sweep[-1] == f"hydra.sweep.dir='{place}'" and "seed=1" in sweep
