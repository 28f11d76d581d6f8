"""The list of items: each prompt once, with what the annotator did; it tells neither gold items nor repeats."""

from lit_llm.feedback.store import browsing
from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.browsing import browse
from lit_llm.feedback.store.judgements import Judgement, save, skip
from lit_llm.feedback.store.projects import add_items
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
