"""Invariant: what goes into a project comes out again the same, and every mistake is one line."""

import json
from hashlib import sha256

import pytest

from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import ScoreModel
from lit_llm.data.options import PreferencesOptions
from lit_llm.data.preferences import Preferences
from lit_llm.errors import UserError
from lit_llm.feedback.exporting import export_rows
from lit_llm.feedback.import_rows import Said
from lit_llm.feedback.importing import submit
from lit_llm.feedback.sampling import checkpoint_id
from lit_llm.feedback.store.accounts import add_annotator, annotators
from lit_llm.feedback.store.adjudication import adjudicate, disputed
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.exports import exports
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.projects import settings
from lit_llm.feedback.store.rankings import rows
from lit_llm.feedback.store.refusals import Unavailable
from lit_llm.feedback.store.tables import CandidateRow, TaskCandidateRow, TaskRow
from lit_llm.feedback.web.command import Rank, run
from lit_llm.feedback.win_rate import win_rate
from lit_llm.runtime.arguments import parse


def rank(**arguments):
    run(parse(Rank, [f"{key}={value}" for key, value in arguments.items()]))


def ranked(prompt, annotator, ranking, **more):
    completions = [f"{prompt} {letter}" for letter in "abc"[: len(ranking)]]
    row = {"prompt": prompt, "completions": completions, "ranking": ranking, "annotator": annotator, "seconds": 30.0}
    return {**row, "function": f"module.{prompt}", **more}


ROWS = {
    "train": [
        ranked("p", "x", [1, 2, 3]),
        ranked("p", "y", [1, 1, 2], flags=[{"completion": 2, "kind": "hallucination", "severity": 3}]),
        ranked("q", "robot", [2, 1, 3], simulated=True),
        ranked("r", "y", [1, 1, 1], all_bad=True),
    ],
    "validation": [ranked("s", "x", [1, 2])],
    "test": [ranked("t", "x", [3, 1, 2], ratings=[{"helpful": 2, "honest": None, "harmless": 7}] * 3)],
}


@pytest.fixture
def project(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, some in ROWS.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    rank(action="import", rows=folder, project=tmp_path / "p.db")
    assert "5 new items, 6 rankings" in capsys.readouterr().out
    return tmp_path / "p.db"


def test_the_database_trains_like_its_export_and_like_what_was_imported(project, tokenizer, tmp_path):
    rank(action="export", project=project, output=tmp_path / "out")
    places = [project, f"sqlite:///{project}", tmp_path / "out", tmp_path / "rows"]
    options = {"max_length": 90, "cache_dir": str(tmp_path / "cache")}
    data = [Preferences(PreferencesOptions(path=str(place), **options), tokenizer=tokenizer) for place in places]
    first = data[0].prepared
    assert len(first.train) == 3 and len(first.validation["rankings"]) == 1 and len(data[0].heldout()[0].items) == 1
    assert len({one.fingerprint() for one in data}) == 1
    assert [one.counts() for one in data[1:]] == [data[0].counts()] * 3
    comparison = data[0].heldout()[0].items[0]
    assert comparison.source == f"{project}: task 1, annotator x"


def test_ids_of_simulated_and_flags_survive(project):
    store = open_store(project)
    found = list(rows(store))
    assert [(row["annotator"], row["ranking"], row["simulated"]) for row in found[1:4]] == [
        ("x", [1, 2, 3], False), ("y", [1, 1, 2], False), ("robot", [2, 1, 3], True),
    ]  # fmt: skip
    assert found[2]["flags"] == [{"completion": 2, "kind": "hallucination", "severity": 3}]
    assert found[0]["ratings"][0] == {"helpful": 2, "honest": None, "harmless": 7}
    assert found[0]["positions"] == [None] * 3


def test_pairs_and_labels(project, tmp_path):
    store = open_store(project)
    pairs = list(export_rows(store, "pairs"))
    assert [
        (row["chosen"], row["rejected"])
        for row in pairs
        if (row["prompt"][0]["content"], row["annotator"]) == ("p", "y")
    ] == [("p a", "p c"), ("p b", "p c")]
    assert sum(row["weight"] for row in pairs) == pytest.approx(5)  # five rankings with a strict pair
    assert next(row for row in pairs if row["rejected_flags"])["rejected_flags"] == [
        {"completion": 2, "kind": "hallucination", "severity": 3}
    ]
    labels = [(row["completion"], row["label"]) for row in export_rows(store, "labels")]
    assert labels[2:4] == [("p a", True), ("p c", False)]  # what stands between them says nothing
    assert [pair for pair in labels if pair[0].startswith("r")] == [("r a", False), ("r b", False), ("r c", False)]
    rank(action="export", kind="labels", project=project, output=tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    noted = exports(open_store(project))[0]
    assert noted.kind == "labels" and sum(noted.counts.values()) == len(lines) == len(labels)
    rank(action="export", project=project, output=tmp_path / "out")
    hashes = {one.filters["split"]: one.hash for one in exports(open_store(project)) if "split" in one.filters}
    written = {file.stem: sha256(file.read_bytes()).hexdigest() for file in (tmp_path / "out").glob("*.jsonl")}
    assert noted.hash == sha256((tmp_path / "labels.jsonl").read_bytes()).hexdigest() and hashes == written


def test_all_bad_says_it_of_those_left_unranked(tmp_path):
    row = ranked("p", "x", [1, 2], all_bad=True, unranked=[{"completion": "left"}])
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    rank(action="import", rows=tmp_path / "rows.jsonl", project=tmp_path / "p.db")
    found = [(row["completion"], row["label"]) for row in export_rows(open_store(tmp_path / "p.db"), "labels")]
    assert found == [("p a", False), ("p b", False), ("left", False)]


def test_a_program_of_a_person_s_name_stays_a_program(project, tmp_path):
    (tmp_path / "more.jsonl").write_text(json.dumps(ranked("z", "x", [1, 2], simulated=True)) + "\n")
    rank(action="import", rows=tmp_path / "more.jsonl", project=project)
    found = {row["prompt"][0]["content"]: (row["annotator"], row["simulated"]) for row in rows(open_store(project))}
    assert found["z"] == ("x-simulated", True) and found["s"] == ("x", False)


def test_importing_twice_changes_nothing(project, tmp_path, capsys):
    rank(action="import", rows=tmp_path / "rows", project=project)
    assert "0 new items (5 were there), 0 rankings (6 were there)" in capsys.readouterr().out


def test_answers_are_sampled_and_compared_blind(model, tokenizer, prompts, tmp_path, capsys):
    save_model(tmp_path / "after", model, tokenizer)
    other = type(model)(model.config).eval()
    save_model(tmp_path / "before", other, tokenizer)
    asked = {"prompts": prompts, "max_new_tokens": 12, "action": "make", "device": "cpu"}
    for name in ("one.db", "two.db"):
        rank(model=tmp_path / "after", project=tmp_path / name, k=3, **asked)
    assert capsys.readouterr().out.count("admin account") == 2
    with open_store(tmp_path / "one.db").read() as session:
        candidates = session.query(CandidateRow).all()
        assert len({c.text for c in candidates}) > 40 and {c.finish_reason for c in candidates} <= {"stop", "length"}
        assert candidates[0].sampling["temperature"] == 1.0 and len(candidates[0].checkpoint_hash) == 16
        texts = [c.text for c in candidates]
    with open_store(tmp_path / "two.db").read() as session:
        assert [c.text for c in session.query(CandidateRow)] == texts  # the seed decides
    with pytest.raises(UserError, match="max_new_tokens=100000: none of 19 prompts leaves that room in the model's 96"):
        rank(model=tmp_path / "after", project=tmp_path / "no.db", **{**asked, "max_new_tokens": 100_000})
    assert not (tmp_path / "no.db").exists()
    rank(model=tmp_path / "after", against=tmp_path / "before", project=tmp_path / "c.db", **asked)
    store = open_store(tmp_path / "c.db")
    with pytest.raises(UserError, match="nothing is judged yet"):
        win_rate(store)
    judge(store, wins=12)
    found = win_rate(store)
    assert (found["wins"], found["losses"], found["n"]) == (12, 7, 19) and found["mean"] == pytest.approx(12 / 19)
    assert found["low"] == pytest.approx(0.41, abs=0.02) and found["after"].endswith("after")
    assert [found[f"{name}_hash"] for name in ("after", "before")] == [
        checkpoint_id(tmp_path / name) for name in ("after", "before")
    ]


def judge(store, wins):
    """One annotator prefers ``after`` (the first candidate of each item) in so many of the items."""
    with store.write() as session:
        texts = {}
        query = session.query(TaskCandidateRow.task_id, CandidateRow.text, CandidateRow.model)
        for task, text, name in query.join(CandidateRow, CandidateRow.id == TaskCandidateRow.candidate_id):
            texts.setdefault(task, {})[name.endswith("after")] = text
        for number, (task, of) in enumerate(texts.items()):
            judgement = Judgement({"a": 1 + (number >= wins), "b": 1 + (number < wins)})
            said = Said("here", "x", False, None, judgement, {"a": of[True], "b": of[False]}, {})
            submit(session, task, said, store.now())


def test_a_reward_model_says_what_to_rank_first(project, model, tokenizer, tmp_path, capsys):
    save_model(tmp_path / "reward", ScoreModel.from_language_model(model), tokenizer)
    rank(action="prioritize", project=project, reward=tmp_path / "reward")
    assert "5 items" in capsys.readouterr().out
    with open_store(project).read() as session:
        found = [priority for (priority,) in session.query(TaskRow.priority)]
    assert len(found) == 5 and all(0 < priority <= 0.25 for priority in found) and len(set(found)) > 1


def test_a_decision_is_exported_or_what_it_settles(project, tmp_path):
    store = open_store(project)
    judge = add_annotator(store, "Judge", role="adjudicator")
    (found,) = disputed(store)
    adjudicate(store, judge.id, found.task_id, Judgement({"A": 1, "B": 2, "C": 3}, seconds=20.0), found.version)
    counts = []
    for asked in ({}, {"adjudicated": False}):
        rank(action="export", project=project, output=tmp_path / "out.jsonl", **asked)
        said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        counts.append((len(said), sum(row["adjudicated"] for row in said)))
    assert counts == [(5, 1), (6, 0)]


def test_accounts_are_added_and_ended_by_one_command(project, capsys):
    rank(action="users", project=project, add="Ann", language="ar")
    rank(action="users", project=project, add="Bob", deactivate="Ann", reset="admin")
    assert capsys.readouterr().out.count("password") == 3  # Ann's, Bob's, the admin's new one
    accounts = {account.name: account for account in annotators(open_store(project))}
    assert not accounts["Ann"].active and accounts["Ann"].language == "ar" and accounts["Bob"].active


def test_settings_that_are_given_change_the_project(project, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_llm.feedback.web.server.serve", lambda *_: None)
    rank(project=project, overlap=2, allow_ties=False)
    rank(project=project, target_rankings=7, flag_kinds="privacy,other")
    rank(action="import", project=project, rows=tmp_path / "rows", title="Words")
    found = settings(open_store(project))
    assert (found.overlap, found.allow_ties, found.target_rankings, found.title) == (2, False, 7, "Words")
    assert found.flag_kinds == ("privacy", "other") and found.min_seconds == 5.0


def test_a_project_is_whole_or_absent(tmp_path, monkeypatch):
    """An import that fails half-way leaves no file, and the same command goes through once it can."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ranked("p", "x", [1, 2])) + "\n")
    asked = {"action": "import", "rows": tmp_path / "rows.jsonl", "project": tmp_path / "p.db"}
    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"p\.db: cannot be made \(disk full\)"):
        patched.setattr("lit_llm.feedback.importing.submit", fails(OSError(28, "disk full")))
        rank(**asked)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    with monkeypatch.context() as patched, pytest.raises(UserError, match="database is locked"):
        patched.setattr("lit_llm.feedback.importing.submit", fails(Unavailable("p.db: database is locked")))
        rank(**asked)
    rank(**asked)
    assert len(list(rows(open_store(tmp_path / "p.db")))) == 1


def fails(error):
    def failing(*_):
        raise error

    return failing


def test_nothing_is_sampled_for_a_project_that_cannot_be_made(project, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_llm.feedback.sampling.items_to_rank", fails(AssertionError("sampled")))
    (tmp_path / "file").write_text("")
    for change, message in (
        ({"project": project}, "is there already"),
        ({"project": f"sqlite:///{project}"}, "is there already"),
        ({"project": tmp_path / "file" / "p.db"}, "cannot be made"),
        ({"k": 27}, "k=27: a ranking has 2 to 26"),
        ({"k": 1}, "k=1: a ranking has 2 to 26"),
        ({"overlap": 0}, "overlap=0"),
        ({"flag_kinds": "rude"}, "flag_kinds=.*rude"),
    ):
        with pytest.raises(UserError, match=message):
            rank(**{"model": tmp_path / "m", "prompts": prompts, "project": tmp_path / "new.db", **change})


def test_mistakes(project, tmp_path):
    (tmp_path / "text.db").write_text("no database at all, whatever its name says")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "completions": ["a", "b"], "ranking": [1, 5]}\n')
    cases = [
        ({"action": "agreement"}, "project= is missing"),
        ({"action": "agreement", "project": tmp_path / "none.db"}, "no such ranking project"),
        ({"action": "agreement", "project": tmp_path / "text.db"}, "is no ranking project"),
        ({"action": "import", "rows": tmp_path / "bad.jsonl", "project": tmp_path / "n.db"}, "1: .*5 is outside"),
        ({"action": "export", "project": project}, "output= is missing"),
        ({"action": "win_rate", "project": project}, "compares no two models"),
        ({"action": "prioritize", "project": project}, "reward= is missing"),
        ({"action": "users", "project": project, "reset": "nobody"}, "no such account"),
        ({"model": tmp_path / "none", "prompts": tmp_path / "rows", "project": tmp_path / "m.db"}, "no such folder"),
        ({"model": tmp_path / "none"}, "prompts= is missing"),
        ({"project": project, "prompts": "p.jsonl"}, "prompts=p.jsonl: .* model=FOLDER is missing"),
        ({"project": project, "overlap": 0}, "overlap=0"),
        ({"action": "agreement", "project": project, "overlap": 2}, "overlap=2: action=agreement does not read it"),
        ({"action": "make", "model": tmp_path, "against": tmp_path, "k": 3}, "k=3: a comparison has one"),
        ({"action": "users", "project": project, "add": "Eve", "language": "xx"}, "language=xx: must be one of ar, en"),
        ({"action": "users", "project": project, "role": "admin"}, "add=NAME makes one"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            rank(**arguments)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "n.db").exists() and not (tmp_path / "m.db").exists()
