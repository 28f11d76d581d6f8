"""A start that failed leaves no folder; a command that was stopped says how it goes on."""

import fcntl
import shlex
import sys

import pytest

from lit_llm import started


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(started, "_there", set())
    place = tmp_path / "outputs/pretraining/now"
    (place / ".hydra").mkdir(parents=True)
    (place / "run.log").write_text("a line")
    (place / "config.yaml").write_text("seed: 0")
    return place


NEW = started.Before(frozenset(), folder=False)


def test_a_failed_start_leaves_no_folder_and_none_above_it(folder, tmp_path):
    assert started.clear(folder, NEW) and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("kept", ["notes.txt", "model/config.json", "metrics.json", "checkpoints/step-1.ckpt"])
def test_what_is_worth_something_is_kept(folder, kept):
    (folder / kept).parent.mkdir(exist_ok=True)
    (folder / kept).write_text("{}")
    assert not started.clear(folder, NEW) and (folder / "config.yaml").is_file() and (folder / kept).is_file()


def test_a_run_that_took_a_step_is_kept(folder, monkeypatch):
    monkeypatch.setattr(started, "_begun", set())
    started.note_begun(folder)
    assert not started.clear(folder, NEW) and (folder / "config.yaml").is_file()


def fail_in(folder):
    """A start in a folder: what Hydra writes, the look at what was there, what a run writes, the failure."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name in ("config", "hydra", "overrides"):
        (folder / f".hydra/{name}.yaml").write_text("")
    (folder / "train.log").touch()
    before = started.seen(folder)
    with (folder / "train.log").open("a") as log:
        log.write("a line")
    for name in ("run.json", "config.yaml"):
        (folder / name).write_text("{}")
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer/vocab.json").touch()
    return started.clear(folder, before)


def test_what_a_user_had_stays_whatever_its_name(tmp_path, monkeypatch):
    """hydra.run.dir may be any folder, the one with the user's own work too."""
    monkeypatch.chdir(tmp_path)
    had = ["tokenizer/tokenizer.json", "scores/mine.json", "train.log", "app.log", "checkpoints/old.bin", "csv"]
    for name in had:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert fail_in(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0] for name in had}
    assert all((tmp_path / name).read_text().startswith("mine") for name in had)
    assert not (tmp_path / "run.json").exists() and not (tmp_path / ".hydra").exists()


def test_an_empty_folder_that_was_named_stays_and_one_that_was_made_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(started, "_there", set())
    named, jobs, linked = tmp_path / "named", tmp_path / "sweep", tmp_path / "link"
    named.mkdir()
    (jobs / "0").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    linked.symlink_to(tmp_path / "far")
    for folder in (named, jobs, tmp_path / "made"):
        started.keep(folder)
    places = (named, jobs / "0", jobs / "1", linked, tmp_path / "made")
    assert all(fail_in(place) for place in places)
    assert [place.is_dir() for place in places] == [True, True, False, True, False]
    assert not any((tmp_path / "far").iterdir())


def test_a_folder_that_another_process_is_at_work_in_is_left_alone(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not fail_in(tmp_path)
    assert (tmp_path / "run.json").is_file() and (tmp_path / ".lock").is_file()


def test_a_run_that_was_there_is_not_cleared(folder):
    assert started.seen(folder) is None and not started.clear(folder, None)


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
