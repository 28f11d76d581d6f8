"""Invariant: a row that is imported is exported the same; what a project could not keep is told by line."""

import json

import pytest

from lit_llm.errors import UserError
from lit_llm.feedback.importing import add_rows, read_items
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.projects import ProjectSettings, create_project
from lit_llm.feedback.store.rankings import rows

RATING = {"helpful": 2, "honest": None, "harmless": 7}
FLAG = {"kind": "hallucination", "severity": 3, "start": 0, "end": 2}
PARTIAL = {
    "prompt": [{"role": "user", "content": "p"}],
    "completions": ["one", "two"],
    "ranking": [2, 1],
    "annotator": "x",
    "comment": "c",
    "seconds": 31.5,
    "submitted_at": "2026-01-31T12:00:00+00:00",
    "models": ["m1", "m2"],
    "checkpoints": ["c1", "c2"],
    "positions": [3, 1],
    "ratings": [RATING, {"helpful": None, "honest": None, "harmless": None}],
    "notes": ["", "n"],
    "flags": [{"completion": 1, **FLAG}],
    "unranked": [
        {
            "completion": "three",
            "model": "m3",
            "checkpoint": "c3",
            "position": 2,
            "flags": [FLAG],
            "ratings": RATING,
            "note": "left",
        }
    ],
    "tags": {"function": "f"},
    "split": "test",
}
BARE = dict.fromkeys(("models", "checkpoints", "positions", "ratings", "notes", "flags"))


@pytest.fixture
def project(tmp_path):
    def make(name):
        store = open_store(tmp_path / name, create=True)
        create_project(store, ProjectSettings())
        return store

    return make


def write(tmp_path, *values):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(file)


def test_a_partial_ranking_comes_out_as_it_went_in(project, tmp_path):
    first, second = project("one.db"), project("two.db")
    add_rows(first, read_items(write(tmp_path, PARTIAL)))
    (once,) = rows(first)
    hashes = [one.pop("completion_hash") for one in once["unranked"]]
    assert {key: once[key] for key in PARTIAL} == PARTIAL and len(hashes) == 1
    add_rows(second, read_items(write(tmp_path, *rows(first))))
    assert list(rows(second)) == list(rows(first))


def test_annotators_are_told_apart_as_they_are_written(project, tmp_path):
    store = project("p.db")
    add_rows(store, read_items(write(tmp_path, *({**PARTIAL, "annotator": name} for name in ("Ann", "ann")))))
    assert [row["annotator"] for row in rows(store)] == ["Ann", "ann"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratings": [{"helpful": 9}, None]}, "helpful .*9; must be a whole number from 1 to 7"),
        ({"ratings": [5, None]}, "'ratings' is .*objects"),
        ({"ratings": [{}] * 3}, "'ratings' is .*a list of 2"),
        ({"seconds": "slow"}, "seconds: 'slow'"),
        ({"seconds": -1}, "seconds: -1"),
        ({"flags": ["hallucination"]}, "a flag is .hallucination"),
        ({"flags": [{"completion": 2, "kind": "privacy"}]}, "a flag is"),
        ({"flags": [{"completion": 0, "kind": "rude"}]}, "flag 'rude'"),
        ({"flags": [{"completion": 0, **FLAG, "start": "0"}]}, "start: '0'"),
        ({"flags": [{"completion": 0, **FLAG, "end": 99}]}, "0-99 is no stretch"),
        ({"tags": ["a"]}, "'tags' is .*an object"),
        ({"tags": {"a": "\0"}}, "tags.a"),
        ({"unranked": [{"note": "no text"}]}, "'unranked' is .*objects with completion"),
        ({"unranked": ["three"]}, "'unranked' is .*objects with completion"),
        ({"comment": "a\0b"}, "comment: contains the character NUL"),
        ({"models": ["m1"]}, "'models' is .*a list of 2"),
        ({"models": "m1"}, "'models' is .*a list"),
        ({"positions": ["1", "2"]}, "'positions' is .*whole numbers"),
        ({"submitted_at": "yesterday"}, "'submitted_at' is .*yesterday"),
        ({"annotator": "x" * 41}, "'annotator' is .*at most 40"),
        ({"split": 3}, "'split' is 3"),
        ({"all_bad": "yes"}, "all_bad: 'yes'"),
        ({"completions": [f"{n}" for n in range(26)], "ranking": [1] * 26, **BARE}, "27 completions; at most 26"),
    ],
)
def test_what_cannot_be_kept_is_told_by_file_and_line(tmp_path, change, message):
    place = write(tmp_path, PARTIAL, {**PARTIAL, **change})
    with pytest.raises(UserError, match=message) as error:
        read_items(place)
    assert str(error.value).startswith(f"{place}:2:") and "\n" not in str(error.value)


def test_gold_needs_an_order(tmp_path):
    for change, message in (({"ranking": [1, 1]}, "ties all"), ({"ranking": None}, "'ranking'")):
        with pytest.raises(UserError, match=message):
            read_items(write(tmp_path, {**PARTIAL, **change}), gold=True)


def test_all_or_nothing(project, tmp_path, monkeypatch):
    """What goes wrong at the last ranking takes the items and rankings before it along."""
    from lit_llm.feedback import importing

    store, real, seen = project("p.db"), importing.submit, []

    def failing(*given):
        seen.append(given)
        if len(seen) == 2:
            raise UserError("the disk is full")
        return real(*given)

    monkeypatch.setattr(importing, "submit", failing)
    asked = read_items(write(tmp_path, PARTIAL, {**PARTIAL, "prompt": "q"}))
    with pytest.raises(UserError, match="the disk is full"):
        add_rows(store, asked)
    monkeypatch.setattr(importing, "submit", real)
    assert list(rows(store)) == [] and add_rows(store, asked).items == 2
