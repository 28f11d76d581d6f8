"""Invariant: a ranking project counts by its rankings, never by the bytes of its file."""

import builtins

import pytest

from lit_llm.data.projects import is_project, place_of, rankings_hash, resolve_project, shown
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError
from lit_llm.feedback.importing import add_rows, read_items
from lit_llm.feedback.store.accounts import add_annotator
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.projects import ProjectSettings, create_project
from lit_llm.ingredients import data_hashes, files_of


@pytest.fixture
def project(tmp_path):
    store = open_store(tmp_path / "p.db", create=True)
    create_project(store, ProjectSettings())
    return store


def rank(store, tmp_path, prompt, split="train"):
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "{prompt}", "completions": ["a", "b"], "ranking": [1, 2], "split": "{split}"}}\n')
    add_rows(store, read_items(str(file)))


def test_splits_are_those_stored(project, tmp_path):
    place = str(tmp_path / "p.db")
    rank(project, tmp_path, "one")
    rank(project, tmp_path, "two", "test")
    assert resolve(place) == {"test": [f"{place}#test"], "train": [f"{place}#train"]}
    assert resolve(f"sqlite:///{place}") == resolve(place)
    assert files_of({"path": place}) == [place] and place_of(f"{place}#train") == place


def test_rankings_change_the_hash_and_log_ins_do_not(project, tmp_path):
    place = str(tmp_path / "p.db")
    rank(project, tmp_path, "one")
    before = rankings_hash(place), data_hashes({"data": {"path": place}})
    bytes_before = (tmp_path / "p.db").read_bytes()
    add_annotator(project, "Ann")
    project.close()
    assert (tmp_path / "p.db").read_bytes() != bytes_before
    assert (rankings_hash(place), data_hashes({"data": {"path": place}})) == before
    rank(project, tmp_path, "two")
    assert rankings_hash(place) != before[0] and data_hashes({"data": {"path": place}}) != before[1]


@pytest.mark.usefixtures("project")
def test_mistakes_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"p\.db: holds no ranking yet; rank with python scripts/rank\.py project="):
        resolve_project(str(tmp_path / "p.db"))
    (tmp_path / "text.db").write_text("a text")
    for name, message in (("text.db", "is no ranking project"), ("none.db", "no such ranking project")):
        with pytest.raises(UserError, match=message):
            resolve(str(tmp_path / name))
    real = builtins.__import__

    def without_sqlalchemy(name, *rest):
        if name.startswith("lit_llm.feedback.store"):
            raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_sqlalchemy)
    with pytest.raises(UserError, match=r"sqlalchemy is missing\); pip install 'lit-llm\[feedback\]'"):
        resolve(str(tmp_path / "p.db"))


def test_a_url_is_shown_without_its_password():
    assert is_project("postgresql+psycopg://ann:secret@host/db") and not is_project("https://host/rows.jsonl")
    assert shown("postgresql://ann:secret@host/db") == "postgresql://ann:***@host/db"
