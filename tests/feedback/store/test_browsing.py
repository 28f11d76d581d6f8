"""The list of items: each prompt once, with what the annotator did; it tells neither gold items nor repeats."""

from sqlalchemy import event, insert

from lit_llm.feedback.store import browsing
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.browsing import browse
from lit_llm.feedback.store.judgements import Judgement, save, skip
from lit_llm.feedback.store.projects import add_items
from lit_llm.feedback.store.tables import AssignmentRow, PromptRow, TaskRow
from tests.feedback.store.conftest import item


def rank(store, who):
    found = next_item(store, who)
    save(store, who, found.assignment_id, found.version, Judgement({"A": 1, "B": 2}, seconds=9.0), submit=True)
    return found


def test_what_was_ranked_and_what_not(make):
    store, (ann, bob) = make(items=4, overlap=2)
    first = rank(store, ann)
    second = next_item(store, ann)
    skip(store, ann, second.assignment_id, 0, "unclear")
    third = next_item(store, ann)
    found = browse(store, ann)
    assert (found.ranked, found.total, found.pages) == (1, 4, 1)
    assert [(row.assignment_id, row.state) for row in found.rows] == [
        (first.assignment_id, "submitted"), (second.assignment_id, "skipped"), (third.assignment_id, "leased"),
        (None, None),
    ]  # fmt: skip
    assert [row.number for row in browse(store, ann, "ranked").rows] == [1]
    assert [row.number for row in browse(store, ann, "unranked").rows] == [2, 3, 4]
    assert not browse(store, bob, "ranked").rows and browse(store, bob).rows[0].prompt == "question 0"


def test_a_repeat_takes_the_row_of_its_first_and_gold_stands_among_the_others(make):
    store, (ann, _) = make(items=7, repeat_share=0.99, gold_share=0.0)
    add_items(store, [item("known", gold_ranks=[1, 2, 3, 4])])
    firsts = [rank(store, ann) for _ in range(6)]
    repeated = next_item(store, ann)
    assert repeated.messages in [one.messages for one in firsts], "a repeat"
    rows = browse(store, ann).rows
    assert len(rows) == 8 and [row.prompt for row in rows][-1] == "known"
    (row,) = (row for row in rows if row.assignment_id == repeated.assignment_id)
    assert row.state == "leased" and row.prompt == repeated.messages[-1].content
    assert browse(store, ann).ranked == 5


def test_pages(make, monkeypatch):
    monkeypatch.setattr(browsing, "PAGE", 3)
    store, (ann, _) = make(items=7)
    numbers = [[row.number for row in browse(store, ann, page=page).rows] for page in (1, 2, 3, 4, 0)]
    assert numbers == [[1, 2, 3], [4, 5, 6], [7], [7], [1, 2, 3]] and browse(store, ann).pages == 3


def test_thousands_of_items_are_listed_at_once(make):
    store, (ann, _) = make(items=0)
    numbers = range(1, 5001)
    ranked = {"annotator_id": ann, "state": "submitted", "lease_until": 0.0, "shuffle_seed": "", "opened_at": 0.0}
    kept = {"kind": "normal", "overlap": 2, "priority": 0.0, "created_at": 0.0}
    prompt = {"messages": [{"role": "user", "content": "?"}], "tags": {}, "split": "train"}
    with store.write() as session:
        session.execute(insert(PromptRow), [{"id": n, "hash": str(n), **prompt} for n in numbers])
        session.execute(insert(TaskRow), [{"id": n, "prompt_id": n, "key": str(n), **kept} for n in numbers])
        session.execute(insert(AssignmentRow), [{"task_id": n, **ranked} for n in numbers if n % 2])
    hundreds = []  # of steps that SQLite takes
    if store.engine.dialect.name == "sqlite":
        listen = lambda connection, *_: connection.set_progress_handler(lambda: hundreds.append(1), 100)  # noqa: E731
        event.listen(store.engine, "checkout", listen)
    for wanted, last in [("all", 5000), ("ranked", 4999), ("unranked", 5000)]:
        hundreds.clear()
        found = browse(store, ann, wanted, page=10**6)
        assert 100 * len(hundreds) < 100 * 5000, "in step with the items, with no search for each"
        assert (found.ranked, found.total, found.rows[-1].number) == (2500, 5000, last)
