"""A project's database opens as one, or says in a line why not; what was promised about it holds."""

import multiprocessing
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from lit_llm.errors import UserError
from lit_llm.feedback.store import engine
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgements import Judgement, save
from lit_llm.feedback.store.projects import ProjectSettings, create_project, settings
from lit_llm.feedback.store.refusals import Unavailable
from lit_llm.feedback.store.tables import SCHEMA_VERSION, Base, Schema

fork = multiprocessing.get_context("fork")


def test_a_project_opens_again_with_every_table_of_the_specification(make, place):
    store, _ = make(title="Trial")
    again = open_store(place)
    assert settings(again).title == "Trial"
    again.close()
    wanted = {"project", "prompt", "candidate", "task", "assignment", "annotation", "annotation_revision"}
    assert wanted | {"candidate_feedback", "candidate_flag", "annotator", "export"} <= set(Base.metadata.tables)
    assert store.engine.dialect.name in str(store.engine.url)


def test_sqlite_is_durable_and_holds_foreign_keys(tmp_path):
    store = open_store(tmp_path / "new.db", create=True)
    with store.write() as session:
        found = [session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]  # 2 is FULL
    store.close()


def test_a_file_that_is_no_project_is_refused_and_left_alone(tmp_path):
    words, other, empty = tmp_path / "words.db", tmp_path / "other.db", tmp_path / "none.db"
    words.write_text("not a database, whatever its name")
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE prompt (id INTEGER)")
    connection.close()
    for place, said in [
        (words, "not an SQLite"),
        (other, "no ranking project"),
        (empty, "no such"),
        (tmp_path, "file"),
    ]:
        with pytest.raises(UserError, match=said):
            open_store(place)
    with pytest.raises(UserError, match="its tables: prompt"):
        open_store(other, create=True)
    assert not empty.exists() and words.read_text().startswith("not a database")


def test_a_place_that_the_system_refuses_is_a_line(tmp_path):
    (tmp_path / "words").write_text("a file, and no folder")
    for place in (tmp_path / "words/new.db", tmp_path / "words/more/new.db", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be opened as a ranking project"):
            open_store(place, create=True)


def as_nobody(job):
    """Runs ``job`` without the rights of root, in a process of its own, and returns what it returns."""
    found = fork.SimpleQueue()

    def run():
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            found.put(job())
        except BaseException as error:
            found.put(repr(error))

    process = fork.Process(target=run)
    process.start()
    result = found.get()
    process.join(240)
    return result


@pytest.mark.parametrize("beside", [0o555, 0o777])
def test_a_file_that_may_not_be_written_is_read(beside):
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    place = folder / "kept #1?.db"
    store = open_store(place, create=True)
    create_project(store, ProjectSettings(title="Kept"))
    store.close()
    place.chmod(0o444)
    folder.chmod(beside)

    def look():
        found = open_store(place)
        with pytest.raises(Unavailable, match="readonly"), found.write() as session:
            session.execute(text("UPDATE project SET created_at = 0"))
        return settings(found).title, str(found.place) == str(place)

    assert as_nobody(look) == ("Kept", True)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_opening_waits_for_no_writer(make, place, monkeypatch):
    store, _ = make(title="Busy")
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)
    with store.write():
        again = open_store(place)
        assert settings(again).title == "Busy"
        again.close()


def test_a_newer_release_s_project_is_refused_with_both_versions(make, place):
    store, _ = make()
    with store.write() as session:
        session.execute(update(Schema).values(version=SCHEMA_VERSION + 1))
    with pytest.raises(
        UserError, match=f"newer release .tables of version {SCHEMA_VERSION + 1}, here {SCHEMA_VERSION}"
    ):
        open_store(place)


def test_a_server_out_of_reach_is_one_line_without_the_password(tmp_path):
    with pytest.raises(UserError) as caught:
        open_store(f"postgresql://somebody:secret-word@/none?host={tmp_path}")
    assert "secret-word" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no driver for nonsense"):
        open_store("nonsense://x/y")


@pytest.mark.parametrize("statement", ["UPDATE annotation_revision SET version = 9", "DELETE FROM annotation_revision"])
def test_revisions_are_append_only_for_everybody(make, statement):
    store, (ann, _) = make()
    found = next_item(store, ann)
    save(store, ann, found.assignment_id, 0, Judgement({"A": 1, "B": 2}), submit=False)
    with pytest.raises(DBAPIError, match="append-only"), store.write() as session:
        session.execute(text(statement))
    with store.read() as session:
        assert session.execute(text("SELECT version FROM annotation_revision")).all() == [(1,)]


def test_a_locked_database_is_unavailable_and_nothing_of_the_write_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)
    store = open_store(tmp_path / "busy.db", create=True)
    other = sqlite3.connect(tmp_path / "busy.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"), store.write():
        pytest.fail("the lock was not waited for at the beginning")
    other.execute("ROLLBACK")
    with store.write() as session:
        assert session.scalar(text("SELECT count(*) FROM schema_version")) == 1
    other.close()
    store.close()


def test_a_write_that_fails_in_the_middle_leaves_nothing(make):
    store, _ = make(people=0)
    with pytest.raises(ZeroDivisionError), store.write() as session:
        session.execute(text("UPDATE task SET overlap = 7"))
        raise ZeroDivisionError
    with store.read() as session:
        assert session.scalar(text("SELECT max(overlap) FROM task")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("overlap", 0), ("repeat_share", 1.0), ("gold_share", float("nan")), ("min_seconds", -1), ("lease_minutes", 0),
     ("flag_kinds", ("rude",)), ("title", " "), ("kind", "stars"), ("seed", 1.5)],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(name, value):
    with pytest.raises(UserError, match=name):
        ProjectSettings(**{name: value})
