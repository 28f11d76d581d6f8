"""People in the pipeline: their rankings in place of simulated ones, and asking them."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import compose
from lit_llm.config.environment import passwords_in
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.feedback import people
from lit_llm.pipeline import human_feedback_checks, rankings
from lit_llm.pipeline.simulated_gold import without_rule
from tests.small_project import compared, project, rank_one

from .test_command import ALL, KEPT, changed, default, ran, run  # noqa: F401 (fixtures)

ROW = {"prompt": "a?", "completions": ["b", "c"], "ranking": [1, 2], "annotator": "ana", "simulated": False}
COLLECT = rankings.collect  # before a fixture pretends another
FLAG = {"completion": 1, "kind": "privacy", "severity": 2}


def write_rows(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The words of the command line


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rankings=FILE.db", "rankings=FILE.db"),
        ("rankings=postgresql://me@host:5432/team", "rankings=postgresql://me@host:5432/team"),
        ("rankings=my team's rankings.jsonl", r"rankings='my team\'s rankings.jsonl'"),
    ],
)
def test_a_place_of_rankings_is_taken_literally(word, said):
    assert hydra_words("pipeline", [word]) == [said]


def test_the_words_are_the_configuration_s():
    cfg = compose("pipeline", ["rankings=my team's rankings.jsonl", "people.enough=7", "annotation.k=3"])
    assert (cfg.rankings, cfg.people.enough, cfg.annotation.k) == ("my team's rankings.jsonl", 7, 3)


# People's rankings


@pytest.fixture
def chain(run, monkeypatch, tmp_path, ran):  # noqa: F811
    """``run`` with the rankings step as it is (the fixture ``ran`` pretends one)."""

    def collect(config, folder, output, allowed):
        ran.append("rankings")
        return COLLECT(config, folder, output, allowed)

    monkeypatch.setattr("lit_llm.pipeline.rankings.collect", collect)
    monkeypatch.chdir(tmp_path)
    return run


def test_people_s_rankings_stand_in_place_of_the_simulated_ones(chain, tmp_path):
    file = write_rows(tmp_path / "people.jsonl", ROW, {**ROW, "annotator": "bo", "flags": [FLAG]})
    assert sorted(chain(f"people.rankings={file}")) == sorted(ALL)
    folder = tmp_path / "one/rankings"
    kept = [json.loads(line) for line in (folder / "collected/rankings.jsonl").open()]
    assert [row["annotator"] for row in kept] == ["ana", "bo"] and kept[1]["flags"] == [FLAG]
    counts = json.loads((folder / "metrics.json").read_text())["counts"]
    assert counts["by_people"] == 2 and counts["annotators"] == 2 and counts["flags"] == {"privacy": 1}
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["people_preferences"] is True and lineage["simulated_preferences"] is False
    assert "simulated: false" in card_of_child(folder, tmp_path)
    assert chain(f"people.rankings={file}", name="two") == []


def card_of_child(folder: Path, tmp_path: Path) -> str:
    """The card of a model made from the rankings, two steps on."""
    from lit_llm.lineage import lineage, model_card

    given = {"config": {"seed": 0}, "data": {"counts": {}}, "metrics": {}, "tokenizer": {}}
    parent = folder.resolve()
    for name in ("reward_modeling", "ppo"):
        (made := tmp_path / f"made/{name}").mkdir(parents=True)
        record = lineage.record(made, stage=name, parents={"data.path": parent}, **given)
        parent = made
    return model_card.render(record)


def test_what_counts_is_what_was_ranked_and_not_where(chain, tmp_path):
    first = write_rows(tmp_path / "a/rows.jsonl", ROW)
    chain(f"people.rankings={first}")
    moved = write_rows(tmp_path / "b/rows.jsonl", ROW)
    assert chain(f"people.rankings={moved}", name="two") == ["rankings"], "all that follows is the same"
    write_rows(moved, ROW, {**ROW, "annotator": "bo"})
    assert chain(f"people.rankings={moved}", name="three")[:2] == ["rankings", "flag_classification"]


def golds(folder: Path) -> list:
    cfg = schema.load(folder / "config.yaml")
    return [cfg.stages.ppo.stage.gold, cfg.best_of_n.gold, cfg.stages.ppo.evaluation.scorers.get("rule")]


def test_the_simulated_rule_is_no_gold_reward_of_people_s_rankings(chain, tmp_path, caplog, default):  # noqa: F811
    caplog.set_level(logging.INFO, "lit_llm")
    file = write_rows(tmp_path / "people.jsonl", ROW)
    assert without_rule(default) is default, "simulated rankings keep it"
    chain(f"people.rankings={file}", name="two")
    assert golds(tmp_path / "two") == [None, None, None] and "gold reward: none" in caplog.text
    assert list(schema.load(tmp_path / "two/config.yaml").stages.ppo.evaluation.scorers) == ["flagged"]
    caplog.clear()
    own = "lit_llm.rewards.learned.LearnedReward"
    chain(f"people.rankings={file}", f"stages.ppo.stage.gold._target_={own}", name="three")
    kept = golds(tmp_path / "three")
    assert kept[0]["_target_"] == kept[1]["_target_"] == own and kept[2] is None and "gold reward" not in caplog.text


PASSWORDS = ["postgresql://me:{}@host/team", "postgresql://me@host/team?password={}"]


@pytest.mark.parametrize("url", PASSWORDS)
@pytest.mark.parametrize("key", ["people.rankings", "win_rate", "stages.dpo.data.path"])
def test_no_password_is_written_into_folders(chain, tmp_path, ran, url, key):  # noqa: F811
    with pytest.raises(UserError, match=r"oc\.env:NAME") as error:
        chain(f"{key}={url.format('s3cret')}")
    assert "s3cret" not in str(error.value) and ran == [] and not (tmp_path / "one").exists()


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_of_the_environment_is_none_in_the_configuration(url):
    values = {"people": {"rankings": url.format("${oc.env:TEAM_PASSWORD}")}, "win_rate": "a:b@c.db"}
    assert not list(passwords_in(values))


@pytest.mark.parametrize("word", ["people.rankings=ask", "people.rankings=team.db", "win_rate=verdict.db"])
def test_a_missing_ranking_app_is_said_before_the_first_step(chain, ran, monkeypatch, word):  # noqa: F811
    monkeypatch.setattr(human_feedback_checks, "find_spec", lambda name: None if name == "sqlalchemy" else name)
    with pytest.raises(UserError, match=r"pip install 'lit-llm\[feedback\]'"):
        chain(word)
    assert ran == []


def test_comparisons_are_no_rankings(chain, tmp_path, ran):  # noqa: F811
    compared(tmp_path / "verdict.db")
    with pytest.raises(UserError, match=r"verdict\.db: is a project of comparisons.*win_rate="):
        chain(f"people.rankings={tmp_path}/verdict.db")
    assert ran == []


def test_simulated_rows_in_a_file_of_ones_own_are_said(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", ROW, {**ROW, "simulated": True})
    result = people.collect(str(file), tmp_path / "out")
    assert result["simulated"] is True and result["by_people"] == 1
    assert "1 by people, 1 by simulated ones" in people.describe(result)


@pytest.mark.parametrize("name", ["nothing.jsonl", "nothing.db"])
def test_what_is_not_there_is_said_before_the_first_step(chain, tmp_path, ran, name):  # noqa: F811
    with pytest.raises(UserError, match=rf"rankings=.*{name}"):
        chain(f"people.rankings={tmp_path}/{name}")
    assert ran == []


def test_a_file_that_is_no_project_is_said_before_the_first_step(chain, tmp_path, ran):  # noqa: F811
    sqlite3.connect(tmp_path / "other.db").execute("create table t (x)").connection.commit()
    with pytest.raises(UserError, match=r"rankings=.*other\.db"):
        chain(f"people.rankings={tmp_path}/other.db")
    assert ran == []


# Asking


def test_asking_makes_one_project_waits_and_reads_what_was_ranked(chain, tmp_path, monkeypatch):
    asked, naps = [], []

    def ask(place, **how):
        asked.append((place, how))
        if not place.is_file():
            project(place)

    def sleep(_):
        naps.append(1)
        rank_one(asked[-1][0])

    monkeypatch.setattr(people, "ask", ask)
    monkeypatch.setattr(people, "sleep", sleep)
    assert chain("people.rankings=ask", "people.enough=1")[: len(KEPT) + 1] == [*KEPT, "rankings"] and len(naps) == 1
    place, how = asked[0]
    assert place.parent == Path("outputs/rankings") and how["k"] == 4 and how["overlap"] == 1
    (row,) = [json.loads(line) for line in (tmp_path / "one/rankings/collected/train.jsonl").open()]
    assert row["simulated"] is False and row["prompt"][0]["content"] in ("q0", "q1")
    assert chain("people.rankings=ask", "people.enough=1", name="two") == [] and asked[1][0] == place
    assert chain("people.rankings=ask", "people.enough=2", name="three")[0] == "rankings" and len(naps) == 2
    assert asked[2][0] == place, "the same answers are the same project, whatever is enough"
    given = chain(f"people.rankings={tmp_path / place}", name="four")
    assert given[0] == "rankings" and len(given) == 1, "the same rankings by another name: what follows is the same"
