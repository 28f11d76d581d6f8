"""People in the pipeline: their rankings in place of simulated ones, waiting for them, and steps that may fail."""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
from pathlib import Path

import pytest

from lit_llm import collection, people_checks, pipeline
from lit_llm import config as schema
from lit_llm.command_line import compose, rewrite
from lit_llm.errors import NothingToLearn, UserError
from lit_llm.feedback import people
from lit_llm.feedback.command import Rank
from lit_llm.feedback.sampling import weights_hash
from lit_llm.feedback.store.accounts import add_annotator, annotators
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.judgements import save
from lit_llm.feedback.store.projects import NewCandidate, NewItem, ProjectSettings, add_items, create_project
from lit_llm.people import comparison, of_this_chain
from lit_llm.people_checks import refuse_passwords
from lit_llm.records import Message
from lit_llm.report.verdict import verdict
from lit_llm.rewards.gate import ExamFailed
from lit_llm.simulated_gold import without_rule

from .test_pipeline import ALL, KEPT, changed, default, ran, run  # noqa: F401 (fixtures)

ROW = {"prompt": "a?", "completions": ["b", "c"], "ranking": [1, 2], "annotator": "ana", "simulated": False}
COLLECT = collection.collect  # before a fixture pretends another
FLAG = {"completion": 1, "kind": "privacy", "severity": 2}


def write_rows(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The words of the command line


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rankings=FILE.db", "people.rankings=FILE.db"),
        ("rankings=ask", "people.rankings=ask"),
        ("rankings=postgresql://me@host:5432/team", "people.rankings=postgresql://me@host:5432/team"),
        ("rankings=my team's rankings.jsonl", r"people.rankings='my team\'s rankings.jsonl'"),
        ("rankings=simulated", "people.rankings=null"),
        ("rankings.enough=7", "people.enough=7"),
        ("rankings.k=3", "rankings.k=3"),
        ("rankings=null", "rankings=null"),
    ],
)
def test_the_shorthand_says_whose_rankings(word, said):
    assert rewrite("pipeline", [word]) == [said]


def test_the_words_are_the_configuration_s():
    cfg = compose("pipeline", ["rankings=my team's rankings.jsonl", "rankings.enough=7", "rankings.k=3"])
    assert (cfg.people.rankings, cfg.people.enough, cfg.rankings.k) == ("my team's rankings.jsonl", 7, 3)


# People's rankings


@pytest.fixture
def chain(run, monkeypatch, tmp_path, ran):  # noqa: F811
    """``run`` with the rankings step as it is (the fixture ``ran`` pretends one)."""

    def collect(config, folder, output):
        ran.append("rankings")
        return COLLECT(config, folder, output)

    monkeypatch.setattr("lit_llm.collection.collect", collect)
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
    from lit_llm import lineage, model_card

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
    refuse_passwords({"people": {"rankings": url.format("${oc.env:TEAM_PASSWORD}")}, "win_rate": "a:b@c.db"})


@pytest.mark.parametrize("word", ["people.rankings=ask", "people.rankings=team.db", "win_rate=verdict.db"])
def test_a_missing_ranking_app_is_said_before_the_first_step(chain, ran, monkeypatch, word):  # noqa: F811
    monkeypatch.setattr(people_checks, "find_spec", lambda name: None if name == "sqlalchemy" else name)
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


# Waiting


def test_it_waits_until_there_are_enough(monkeypatch, tmp_path, caplog):
    counts, place = iter([0, 1, 1, 3]), tmp_path / "p.db"
    monkeypatch.setattr(people, "ranked", lambda _: (next(counts), 9))
    with caplog.at_level(logging.INFO):
        assert people.wait(place, 3, 0.001) == 3
    assert f"python scripts/rank.py project={place}" in caplog.text and "0 of 3" in caplog.text
    monkeypatch.setattr(people, "ranked", lambda _: (5, 9))
    assert people.wait(place, 3, 0.001) == 5, "without a word when there is nothing to wait for"


def test_done_goes_on_with_what_is_there_and_not_with_nothing(monkeypatch, tmp_path):
    place, seen = tmp_path / "p.db", []

    def ranked(_):
        seen.append(1)
        if len(seen) == 2:
            place.with_suffix(".done").touch()
        return int(len(seen) > 3), 100

    monkeypatch.setattr(people, "ranked", ranked)
    assert people.wait(place, 100, 0.001) == 1 and len(seen) == 4


def test_a_termination_ends_the_wait_whatever_the_stages_before_left(monkeypatch, tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    counts = iter([0, 0, 5])
    monkeypatch.setattr(people, "ranked", lambda _: (next(counts), 9))
    try:
        people.wait(tmp_path / "p.db", 5, 0.001)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_ends_with_one_line(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(people, "ranked", lambda _: (2, 9))

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(people, "sleep", interrupted)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as end:
        people.wait(tmp_path / "p.db", 5, 0.001)
    assert end.value.code == 130 and "stopped at 2 of 5 rankings; nothing is lost" in caplog.text


def project(place: Path, **_) -> None:
    """A ranking project with two items, as ``people.ask`` makes one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    store = open_store(place, create=True)
    create_project(store, ProjectSettings(min_seconds=0, repeat_share=0, gold_share=0))
    add_annotator(store, "ana", "a good long password")
    answers = [NewCandidate("one"), NewCandidate("two")]
    add_items(store, [NewItem((Message("user", f"q{n}"),), answers) for n in range(2)])
    store.close()


def rank_one(place: Path) -> None:
    store = open_store(place)
    who = annotators(store)[0].id
    item = next_item(store, who)
    ranks = {card.key: rank for rank, card in enumerate(item.cards, 1)}
    save(store, who, item.assignment_id, item.version, Judgement(ranks, seconds=9.0), submit=True)
    store.close()


def test_it_waits_for_no_more_than_the_project_can_give(tmp_path, monkeypatch, caplog):
    project(place := tmp_path / "p.db")  # two items, one place each
    monkeypatch.setattr(people, "sleep", lambda _: rank_one(place))
    with caplog.at_level(logging.INFO):
        assert people.wait(place, 200, 0.001) == 2
    assert "places for 2 rankings" in caplog.text and "0 of 2" in caplog.text


def test_another_overlap_reaches_the_project_that_is_there(tmp_path):
    project(place := tmp_path / "p.db")
    how = {"model": "m", "prompts": "p", "k": 2, "temperature": 1.0, "max_new_tokens": 4, "max_prompts": None}
    people.ask(place, **how, overlap=3, seed=0, batch_size=4, device="cpu")
    assert people.ranked(place) == (0, 6)


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


# Steps that cannot be made


@pytest.fixture
def failing(run, monkeypatch):  # noqa: F811, ARG001
    """``run`` in which some steps raise: {name: error}."""
    import lit_llm.run

    errors: dict[str, Exception] = {}
    good = lit_llm.run.execute

    def execute(cfg, folder):
        name = folder.name.rpartition("-")[0]
        if name in errors:
            raise errors[name]
        return good(cfg, folder)

    monkeypatch.setattr("lit_llm.run.execute", execute)
    return errors


def test_a_failed_exam_leaves_ppo_out_and_the_chain_goes_on(run, failing, tmp_path, caplog):  # noqa: F811
    failing["ppo"] = ExamFailed("below the floor; train directly with stage=dpo instead")
    assert run() == [name for name in ALL if name != "ppo"]
    summary = json.loads((tmp_path / "one/pipeline.json").read_text())
    assert summary["left_out"] == {"ppo": "below the floor; train directly with stage=dpo instead"}
    assert "ppo: left out: below the floor" in caplog.text and not (tmp_path / "one/ppo").exists()
    assert run("objective=ppo", name="two") == [], "what was made is reused, the exam is asked again"


def test_what_comes_of_a_step_that_was_left_out_is_left_out_too(run, failing, tmp_path):  # noqa: F811
    failing["ppo"] = ExamFailed("below the floor")
    assert run("stages.dpo.init_from='@ppo'")[-1] == "reward_modeling"
    left = json.loads((tmp_path / "one/pipeline.json").read_text())["left_out"]
    assert left["dpo"] == "it needs ppo, which was left out"


def test_a_sweep_does_not_compare_another_stage_s_number(run, failing, tmp_path, default):  # noqa: F811
    failing["ppo"] = ExamFailed("below the floor")
    run()
    cfg = changed(default, [f"cache_dir={tmp_path}/cache", f"rankings.prompts={tmp_path}/prompts.jsonl"])
    for name in [*KEPT, "ppo"]:
        cfg.stages[name].data.path = f"{tmp_path}/data.txt"
    cfg.stages.continued_pretraining.data.replay_path = f"{tmp_path}/data.txt"
    assert pipeline.run_pipeline(cfg, tmp_path / "two")["objective"] is None


def test_rankings_without_flags_leave_the_classifier_out_and_ppo_is_made_without_its_scorer(run, failing, tmp_path):  # noqa: F811
    failing["flag_classification"] = NothingToLearn("only bad completions")
    assert run() == [name for name in ALL if name != "flag_classification"]
    assert "flag_classification" in json.loads((tmp_path / "one/pipeline.json").read_text())["left_out"]


def test_skipping_the_classifier_skips_its_scorer_alone(run):  # noqa: F811
    assert run("skip=[flag_classification]") == [name for name in ALL if name != "flag_classification"]


def test_any_other_mistake_stops_the_chain(run, failing):  # noqa: F811
    failing["ppo"] = UserError("data.path: empty")
    with pytest.raises(UserError, match=r"ppo: data\.path: empty"):
        run()


# People's verdict


def compared(place: Path) -> None:
    """A project in which one person preferred the model after in two of three comparisons."""
    store = open_store(place, create=True)
    create_project(store, ProjectSettings(kind="comparison", min_seconds=0, repeat_share=0, gold_share=0))
    who = add_annotator(store, "ana", "a good long password").id
    pair = [NewCandidate("new words", model="ppo"), NewCandidate("old words", model="before")]
    tags = {"after_model": "ppo", "before_model": "before"}
    add_items(store, [NewItem((Message("user", f"q{n}"),), pair, tags) for n in range(3)])
    for n in range(3):
        item = next_item(store, who)
        ranks = {card.key: 1 + ((card.text == "old words") ^ (n == 2)) for card in item.cards}
        save(store, who, item.assignment_id, item.version, Judgement(ranks, seconds=9.0), submit=True)
    store.close()


def test_people_s_verdict_is_written_for_the_report(run, tmp_path):  # noqa: F811
    compared(tmp_path / "verdict.db")
    run(f"win_rate={tmp_path}/verdict.db")
    found = json.loads((tmp_path / "one/win_rate.json").read_text())
    assert found["mean"] == pytest.approx(2 / 3) and (found["after"], found["before"]) == ("ppo", "before")
    assert found["of_this_chain"] is False, "answers of models whose weights nobody knows"
    shown = verdict(found)
    assert shown.share == "66.7%" and shown.counts == "2 wins, 0 ties, 1 losses" and "do not tell" in shown.words


def test_a_verdict_is_on_this_chain_s_models_by_their_weights(tmp_path, caplog):
    for name in ("instruction_tuning", "ppo"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model/model.safetensors").write_text(name)
    made = {name: tmp_path / name / "model" for name in ("instruction_tuning", "ppo")}
    hashes = {"after_hash": weights_hash(made["ppo"]), "before_hash": weights_hash(made["instruction_tuning"])}
    rate = {"mean": 0.6, "low": 0.55, "high": 0.7, "after": "a/model", "before": "b/model", **hashes}
    ours = of_this_chain(rate, made)
    assert (ours["after"], ours["before"], ours["of_this_chain"]) == ("ppo", "instruction_tuning", True)
    assert not caplog.text and verdict(ours).of_this_chain
    (made["ppo"] / "model.safetensors").write_text("trained anew")
    other = of_this_chain(rate, made)
    assert other == {**rate, "of_this_chain": False} and not verdict(other).of_this_chain
    assert len(caplog.records) == 1 and "a/model and b/model" in caplog.text


def test_a_verdict_that_is_none_is_said_before_the_first_step(run, tmp_path, ran):  # noqa: F811
    project(tmp_path / "rankings.db")
    for name in ("rankings.db", "nothing.db"):
        with pytest.raises(UserError, match=name):
            run(f"win_rate={tmp_path}/{name}")
    assert ran == []


def test_the_last_lines_say_how_people_compare_the_models(tmp_path):
    lines = comparison(tmp_path / "run", "ppo", tmp_path / "before", tmp_path / "prompts.jsonl")
    words = lines[1].split()
    assert words[:2] == ["python", "scripts/rank.py"]
    assert {word.partition("=")[0] for word in words[2:]} <= set(Rank.__dataclass_fields__)
    assert f"win_rate={words[-1].removeprefix('project=')}" in lines[2]
    assert comparison(tmp_path, "ppo", None, None) == []
