"""Rankings as rows, disputes and their decision, progress."""

import json
import threading

import pytest
from sqlalchemy import event

from lit_llm.errors import UserError
from lit_llm.feedback.agreement import summary
from lit_llm.feedback.store import accounts, rankings
from lit_llm.feedback.store.adjudication import adjudicate, dispute, disputed
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.exports import exports, record_export
from lit_llm.feedback.store.judgement import Flag
from lit_llm.feedback.store.judgements import Invalid, Judgement, Stale, save, skip
from lit_llm.feedback.store.progress import counts, progress
from lit_llm.feedback.store.projects import NewCandidate, NewItem, add_items
from lit_llm.feedback.store.rankings import rows
from lit_llm.feedback.store.tables import AnnotatorRow
from lit_llm.records import Message


def say(store, who, ranks, item=None, **more):
    """Submits ranks by the answer's number (None: left unranked); flags by number, too."""
    item = item or next_item(store, who)
    key_of = {int(card.text[-1]): card.key for card in item.cards}
    flags = tuple(Flag(key_of[number], *rest) for number, *rest in more.pop("flags", ()))
    ratings = {key_of[number]: scales for number, scales in more.pop("ratings", {}).items()}
    notes = {key_of[number]: note for number, note in more.pop("notes", {}).items()}
    judgement = Judgement(
        {key_of[n]: rank for n, rank in enumerate(ranks)}, flags=flags, ratings=ratings, notes=notes,
        **{"seconds": 9.0} | more,
    )  # fmt: skip
    save(store, who, item.assignment_id, item.version, judgement, submit=True)
    return item


def test_a_row_says_all_that_was_said(make):
    store, (ann, _) = make(items=0)
    answers = [NewCandidate(f"answer {i}", f"model-{i}", f"hash-{i}") for i in range(3)]
    add_items(store, [NewItem([Message("user", "q")], answers, {"topic": "sums"}, split="validation")])
    item = say(
        store, ann, [3, 1, 3], flags=[(0, "privacy", 3, 1, 4), (1, "other", 1)], ratings={1: {"helpful": 6}},
        notes={2: "dull"}, comment="hm",
    )  # fmt: skip
    (row,) = rows(store)
    assert row["prompt"] == [{"role": "user", "content": "q"}]
    assert (row["completions"], row["ranking"]) == ([f"answer {i}" for i in range(3)], [2, 1, 2])
    assert row["flags"] == [
        {"completion": 0, "kind": "privacy", "severity": 3, "start": 1, "end": 4},
        {"completion": 1, "kind": "other", "severity": 1},
    ]
    assert row["ratings"][1] == {"helpful": 6, "honest": None, "harmless": None} and row["notes"] == ["", "", "dull"]
    assert row["models"] == ["model-0", "model-1", "model-2"] and row["checkpoints"][2] == "hash-2"
    shown = [card.text for card in item.cards]
    assert row["positions"] == [shown.index(text) + 1 for text in row["completions"]]
    assert (row["split"], row["tags"], row["comment"], row["seconds"]) == ("validation", {"topic": "sums"}, "hm", 9.0)
    assert row["submitted_at"] == "1970-01-12T13:46:40+00:00" and row["schema"] == 1 and row["agreement"] is None
    assert row["annotator"] == accounts.account(store, ann).pseudonym and "person" not in json.dumps(row)
    assert list(rows(store, splits=["train"])) == [] and len(list(rows(store, splits=["validation"]))) == 1


def test_partial_rankings_all_bad_skipped_and_drafts(make):
    store, (ann, _) = make(items=5, k=3)
    say(store, ann, [2, None, 1], flags=[(1, "violent", 2), (2, "other", 1)])
    say(store, ann, [None, None, None], all_bad=True)
    say(store, ann, [None, 2, 1], all_bad=True)
    skip(store, ann, next_item(store, ann).assignment_id, 0, "no idea")
    last = next_item(store, ann)
    save(store, ann, last.assignment_id, 0, Judgement({"A": 1, "B": 2}), submit=False)
    part, bad, ordered = rows(store)
    assert part["ranking"] == [2, 1] and [text[-1] for text in part["completions"]] == ["0", "2"]
    assert part["flags"] == [{"completion": 1, "kind": "other", "severity": 1}]
    (left,) = part["unranked"]
    assert left["completion"].endswith("1") and left["flags"] == [{"kind": "violent", "severity": 2}]
    assert bad["all_bad"] and bad["ranking"] == [1, 1, 1] and bad["unranked"] == []
    assert ordered["all_bad"] and ordered["ranking"] == [2, 1]


def test_gold_repeats_fast_and_simulated_ones_are_told_apart(make, clock):
    store, (ann, _) = make(items=30, k=3, gold_share=0.2, repeat_share=0.2, min_seconds=5.0)
    robot = accounts.add_annotator(store, "robot").id
    with store.write() as session:
        session.get_one(AnnotatorRow, robot).simulated = True
    answers = [NewCandidate(f"known {i}") for i in range(3)]
    add_items(store, [NewItem([Message("user", "known")], answers, gold_ranks=[2, 1, 2])])
    fast = next_item(store, robot)
    say(store, robot, [1, 2, 3], fast)
    while (item := next_item(store, ann)) is not None:
        clock.time += 9
        say(store, ann, [3, 1, 2], item)
    normal, (gold,), repeats = (list(rows(store, kinds=[kind])) for kind in ("normal", "gold", "repeat"))
    assert len(normal) == 30 and len(list(rows(store, too_fast=True))) == 31  # the robot's item was ranked again
    assert [row["simulated"] for row in rows(store, too_fast=True) if row["too_fast"]] == [True]
    assert (gold["gold"], gold["ranking"]) == ([2, 1, 2], [3, 1, 2])
    answers_of = {row["task"]: row["completions"] for row in normal}
    assert repeats and all(row["completions"] == answers_of[row["repeat_of"]] for row in repeats)
    with pytest.raises(UserError, match="adjudication"):
        list(rows(store, kinds=["adjudication"]))


def test_agreement_counts_the_pairs_that_both_order(make):
    store, people = make(items=1, k=3, people=3, overlap=3)
    for who, ranks in zip(people, ([1, 2, 3], [1, 3, 2], [1, 1, None]), strict=True):
        say(store, who, ranks)
    # the first two order 0<1 and 0<2 alike and 1-2 differently; the third orders nothing strictly
    assert [row["agreement"] for row in rows(store)] == [2 / 3, 2 / 3, None]
    assert disputed(store)[0].agreement == 2 / 3


def test_the_most_disputed_comes_first_and_a_decision_takes_the_place_of_the_rankings(make, clock):
    store, (ann, bob) = make(items=3, k=3, overlap=2)
    root = accounts.add_annotator(store, "root", role="admin").id
    for who, said in ((ann, ([1, 2, 3], [1, 2, 3], [1, 2, 3])), (bob, ([1, 3, 2], [1, 2, 3], [3, 2, 1]))):
        for ranks in said:
            say(store, who, ranks)
    found = disputed(store)
    assert [(one.task_id, one.agreement) for one in found] == [(3, 0.0), (1, 2 / 3), (2, 1.0)]
    assert len(found[0].opinions) == 2 and "model" not in repr(found)
    ranks = {card.key: int(card.text[-1]) + 1 for card in found[0].cards}
    with pytest.raises(UserError, match="may not"):
        adjudicate(store, ann, 3, Judgement(ranks), 0)
    with pytest.raises(Invalid, match="at least 2"):
        adjudicate(store, root, 3, Judgement(), 0)
    with pytest.raises(UserError, match="task 9"):
        adjudicate(store, root, 9, Judgement(ranks), 0)
    for best in (2, 1):
        clock.time += 1
        said = Judgement({c.key: 1 if int(c.text[-1]) == best else 2 for c in found[0].cards})
        adjudicate(store, root, 3, said, dispute(store, 3).version)
    assert [one.task_id for one in disputed(store)] == [1, 2] and len(disputed(store, decided=True)) == 3
    assert dispute(store, 3).final.ranks != ranks
    decided = [row for row in rows(store, adjudicated=True) if row["task"] == 3]
    assert [(row["ranking"], row["adjudicated"]) for row in decided] == [([2, 1, 2], True)]
    assert len(list(rows(store))) == 6 and len(list(rows(store, adjudicated=True))) == 5
    assert next_item(store, root) is None and progress(store).adjudicated == 1


def test_of_two_who_decide_at_once_the_second_is_told(make):
    store, (ann, bob) = make(items=1, k=3, overlap=2)
    deciders = [accounts.add_annotator(store, name, role="adjudicator").id for name in ("one", "two")]
    say(store, ann, [1, 2, 3])
    say(store, bob, [3, 2, 1])
    task, seen = disputed(store)[0].task_id, disputed(store)[0].version
    adjudicate(store, deciders[0], task, Judgement({"A": 1, "B": 2}), seen)
    with pytest.raises(Stale) as caught:
        adjudicate(store, deciders[1], task, Judgement({"A": 2, "B": 1}), seen)
    assert dispute(store, task).final.ranks["A"] == 1 and dispute(store, task).version == caught.value.current > seen
    adjudicate(store, deciders[1], task, Judgement({"A": 2, "B": 1}), caught.value.current)
    assert dispute(store, task).final.ranks["A"] == 2


def test_a_decision_stands_when_every_ranking_that_it_settles_was_too_fast(make):
    store, (ann, bob) = make(items=2, k=3, overlap=2, min_seconds=5.0)
    root = accounts.add_annotator(store, "root", role="admin").id
    for who in (ann, bob):
        say(store, who, [1, 2, 3])  # the clock stands still
    (task,) = [one.task_id for one in disputed(store)]
    cards = dispute(store, task).cards
    adjudicate(store, root, task, Judgement({card.key: 3 - int(card.text[-1]) for card in cards}), 0)
    assert list(rows(store)) == []
    (final,) = rows(store, adjudicated=True)
    assert (final["task"], final["ranking"], final["adjudicated"]) == (task, [3, 2, 1], True)


def test_the_counts_of_a_page_and_the_disputes_are_a_few_queries_whatever_the_size(make):
    store, (ann, bob) = make(items=12, k=2, overlap=2)
    for who in (ann, bob):
        for _ in range(12):
            say(store, who, [1, 2])
    asked = []
    event.listen(store.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    assert counts(store, ann).rankings == 24
    assert all("count(" in one or "sum(" in one for one in asked if one.startswith("SELECT") and "project" not in one)
    asked.clear()
    disputed(store, limit=0)
    assert len([one for one in asked if one.startswith("SELECT")]) == 1


def test_progress_counts_what_was_done_by_whom(make, clock):
    store, (ann, bob) = make(items=4, k=3, overlap=2, min_seconds=5.0, target_rankings=4)
    for who, count in ((ann, 3), (bob, 1)):
        for n in range(count):
            item = next_item(store, who)
            clock.time += 10 if n < 2 else 1
            say(store, who, [1, 2, 3], item, seconds=4.0 + 6 * (n < 2))
    skip(store, bob, next_item(store, bob).assignment_id, 0, "no")
    next_item(store, bob)
    found = progress(store)
    assert (found.tasks, found.complete, found.rankings, found.wanted, found.possible) == (4, 1, 3, 4, 8)
    assert (found.too_fast, found.skipped, found.open) == (1, 1, 1)
    assert [(one.rankings, one.wanted, one.mine) for one in (counts(store, ann), counts(store, bob))] == [
        (3, 4, 3), (3, 4, 1)
    ]  # fmt: skip
    hers, his = found.annotators
    assert (hers.submitted, hers.too_fast, hers.median_seconds, hers.gold_accuracy) == (3, 1, 10.0, None)
    assert (his.submitted, his.skipped, his.open, his.last_at) == (1, 1, 1, clock.time)


def test_gold_accuracy_is_the_share_of_pairs_ordered_as_known(make):
    store, (ann, _) = make(items=0)
    answers = [NewCandidate(f"known {i}") for i in range(3)]
    add_items(store, [NewItem([Message("user", "known")], answers, gold_ranks=[1, 2, 3])])
    say(store, ann, [1, 2, 2])  # what is known to differ is tied: no right answer
    assert progress(store).annotators[0].gold_accuracy == summary(store)["gold_accuracy"]["mean"] == 2 / 3


def test_an_export_during_writes_is_of_one_moment(make, monkeypatch):
    """Each annotator counts in the comments: at any moment what is there of one are the first so many numbers."""
    store, (ann, bob) = make(items=16, k=2, overlap=2)
    monkeypatch.setattr(rankings, "_TASKS_AT_ONCE", 3)  # many portions, which must be of one moment, too
    failed = []

    def write(who):
        try:
            for number in range(16):
                say(store, who, [1, 2], comment=str(number))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in (ann, bob)]
    for thread in threads:
        thread.start()
    sizes = []
    while any(thread.is_alive() for thread in threads):
        found = list(rows(store))
        for name in {row["annotator"] for row in found}:
            own = {int(row["comment"]) for row in found if row["annotator"] == name}
            assert own == set(range(len(own)))
        sizes.append(len(found))
    assert not failed and len(list(rows(store))) == 32
    assert sizes == sorted(sizes)


def test_exports_are_recorded(make):
    store, _ = make()
    record_export(store, "pairs", {"splits": ["train"]}, "abc", {"rows": 3})
    record_export(store, "labels", {}, "def", {"rows": 4})
    assert [(one.kind, one.hash, one.counts["rows"]) for one in exports(store)] == [
        ("labels", "def", 4), ("pairs", "abc", 3)
    ]  # fmt: skip
