"""Invariant: a ranking project counts by its rankings, never by the bytes of its file."""

import builtins
import json

import pytest

from lit_llm.data.projects import is_project, place_of, rankings_hash, read_project, resolve_project, shown
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError
from lit_llm.feedback.importing import add_rows, read_items
from lit_llm.feedback.store import adjudication
from lit_llm.feedback.store.accounts import add_annotator
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.projects import ProjectSettings, create_project
from lit_llm.lineage.input_hash import data_hashes, files_of


@pytest.fixture
def project(tmp_path):
    store = open_store(tmp_path / "p.db", create=True)
    create_project(store, ProjectSettings())
    return store


def rank(store, tmp_path, prompt, split="train", annotator="x", ranks=(1, 2)):
    file = tmp_path / "rows.jsonl"
    row = {"prompt": prompt, "completions": ["a", "b"], "ranking": ranks, "split": split, "annotator": annotator}
    file.write_text(json.dumps(row) + "\n")
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
    for place, told in (
        ("postgresql://ann:secret@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:pa/s?s@w:rd@host:5432/db#train", "postgresql://ann:***@host:5432/db#train"),
        ("postgresql://host/db?user=ann&password=secret&sslmode=require", "postgresql://host/db?user=ann&password=***&sslmode=require"),
        ("postgresql://ann@host:5432/db?sslpassword=s", "postgresql://ann@host:5432/db?sslpassword=***"),
        ("odd?password=p/p.db", "odd?password=p/p.db"),
    ):  # fmt: skip
        assert shown(place) == told


def test_a_decision_stands_for_the_rankings_it_settles(project, tmp_path):
    """What was disputed does not reach the training beside the decision on it."""
    place = str(tmp_path / "p.db")
    for annotator, ranks in (("x", [1, 2]), ("y", [2, 1])):
        rank(project, tmp_path, "one", annotator=annotator, ranks=ranks)
    disputed = rankings_hash(place)
    judge = add_annotator(project, "Judge", role="adjudicator")
    (found,) = adjudication.disputed(project)
    better = {card.key: 1 + (card.text == "a") for card in found.cards}
    adjudication.adjudicate(project, judge.id, found.task_id, Judgement(better, seconds=20.0), found.version)
    ((row, _, _),) = read_project(f"{place}#train")
    assert (row["completions"], row["ranking"], row["annotator"]) == (["a", "b"], [2, 1], judge.pseudonym)
    assert rankings_hash(place) != disputed
