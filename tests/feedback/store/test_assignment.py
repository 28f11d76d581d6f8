"""Who gets which item: priority, overlap, leases, gold items, repeats, and an order of one's own."""

from collections import Counter

import pytest
from sqlalchemy import select

from lit_llm.errors import UserError
from lit_llm.feedback.store.accounts import deactivate
from lit_llm.feedback.store.assignment import REPEAT_AFTER, next_item, open_item
from lit_llm.feedback.store.items import shown_order, shuffle_seed
from lit_llm.feedback.store.judgements import Judgement, save, skip, undo
from lit_llm.feedback.store.progress import progress
from lit_llm.feedback.store.projects import NewCandidate, NewItem, add_items, change_settings, set_priorities
from lit_llm.feedback.store.refusals import LeaseLost, NotYours
from lit_llm.feedback.store.tables import AnnotationRevisionRow, TaskRow
from lit_llm.records import Message

FIRST_BEST = Judgement({"A": 1, "B": 2}, seconds=9)


def submit(store, who, item, judgement=FIRST_BEST):
    return save(store, who, item.assignment_id, item.version, judgement, submit=True)


def work_off(store, who):
    """Ranks until nothing is left; the tasks in order."""
    done = []
    while (item := next_item(store, who)) is not None:
        submit(store, who, item)
        done.append(item.task_id)
    return done


def kinds(store, tasks):
    with store.read() as session:
        known = dict(session.execute(select(TaskRow.id, TaskRow.kind)).all())
    return [known[task] for task in tasks]


def gold(question):
    candidates = [NewCandidate(f"{question} answer {i}") for i in range(3)]
    return NewItem([Message("user", question)], candidates, gold_ranks=[1, 2, 3])


def test_the_highest_priority_comes_first_and_an_open_item_before_any(make):
    store, (ann, _) = make(items=3)
    begun = next_item(store, ann)
    set_priorities(store, {2: 0.5, 3: 2.5})
    assert next_item(store, ann).assignment_id == begun.assignment_id
    submit(store, ann, begun)
    assert work_off(store, ann) == [3, 2]
    with pytest.raises(UserError, match="task 9"):
        set_priorities(store, {9: 1.0})
    with pytest.raises(UserError, match="finite"):
        set_priorities(store, {1: float("nan")})


def test_no_more_annotators_than_the_overlap_and_none_twice(make):
    store, people = make(items=4, people=3, overlap=2)
    done = [work_off(store, who) for who in people]
    assert Counter(task for own in done for task in own) == {1: 2, 2: 2, 3: 2, 4: 2}
    assert all(len(own) == len(set(own)) for own in done)
    change_settings(store, overlap=3)
    assert sorted(work_off(store, people[2])) == [1, 2, 3, 4]


def test_a_lease_that_ended_is_taken_over_and_its_first_owner_is_told(make, clock):
    store, (ann, bob) = make(items=1)
    hers = next_item(store, ann)
    version = save(store, ann, hers.assignment_id, 0, FIRST_BEST, submit=False)
    assert next_item(store, bob) is None
    clock.time += 601
    his = next_item(store, bob)
    assert his.task_id == hers.task_id and his.draft is None
    for attempt in (
        lambda: save(store, ann, hers.assignment_id, version, FIRST_BEST, submit=True),
        lambda: open_item(store, ann, hers.assignment_id),
        lambda: skip(store, ann, hers.assignment_id, version, "too late"),
    ):
        with pytest.raises(LeaseLost):
            attempt()
    assert next_item(store, ann) is None
    skip(store, bob, his.assignment_id, 0, "not my field")
    again = next_item(store, ann)  # the place is free again, and her draft is there
    assert (again.assignment_id, again.draft.ranks["A"]) == (hers.assignment_id, 1)


def test_whoever_returns_late_keeps_the_item_while_nobody_has_it(make, clock):
    store, (ann, bob) = make(items=1)
    hers = next_item(store, ann)
    clock.time += 5000
    submit(store, ann, hers)
    assert next_item(store, bob) is None


def test_what_was_ranked_too_fast_takes_no_place_from_anybody(make, clock):
    store, (ann, bob) = make(items=1, min_seconds=5.0)
    hers = next_item(store, ann)
    submit(store, ann, hers)  # the clock stands still
    assert (progress(store).rankings, progress(store).complete) == (0, 0)
    his = next_item(store, bob)
    assert his.task_id == hers.task_id
    assert next_item(store, ann) is None  # it is Bob's now, and hers may not come back beside it
    for attempt in (lambda: undo(store, ann), lambda: save(store, ann, hers.assignment_id, 1, FIRST_BEST, submit=True)):
        with pytest.raises(LeaseLost):
            attempt()
    clock.time += 9
    submit(store, bob, his)
    assert progress(store).rankings == progress(store).possible == progress(store).complete == 1
    assert next_item(store, ann) is None


def test_what_was_ranked_too_fast_comes_again_at_last(make, clock):
    store, (ann, _) = make(items=2, min_seconds=5.0)
    first = next_item(store, ann)
    submit(store, ann, first)
    second = next_item(store, ann)
    assert second.task_id != first.task_id
    clock.time += 9
    submit(store, ann, second)
    again = next_item(store, ann)
    assert (again.assignment_id, again.state, again.version) == (first.assignment_id, "draft", 2)
    assert again.draft.ranks["A"] == 1 and next_item(store, ann).version == 2
    submit(store, ann, again)
    assert next_item(store, ann) is None and progress(store).rankings == 2
    with store.read() as session:
        revisions = select(AnnotationRevisionRow.action).filter_by(assignment_id=first.assignment_id)
        assert session.scalars(revisions.order_by(AnnotationRevisionRow.version)).all() == ["submit", "again", "submit"]


def test_a_draft_or_a_look_renews_the_lease(make, clock):
    store, (ann, bob) = make(items=1)
    hers = next_item(store, ann)
    for renew in (
        lambda: save(store, ann, hers.assignment_id, 0, FIRST_BEST, submit=False),
        lambda: open_item(store, ann, hers.assignment_id),
        lambda: next_item(store, ann),
    ):
        clock.time += 400
        renew()
    assert next_item(store, bob) is None
    clock.time += 601
    assert next_item(store, bob).task_id == hers.task_id


def test_somebody_else_s_item_is_refused_like_one_that_is_not_there(make):
    store, (ann, bob) = make()
    hers = next_item(store, ann)
    for number in (hers.assignment_id, 999):
        for attempt in (
            lambda n: open_item(store, bob, n),
            lambda n: save(store, bob, n, 0, FIRST_BEST, submit=True),
            lambda n: skip(store, bob, n, 0, "no"),
        ):
            with pytest.raises(NotYours):
                attempt(number)
    deactivate(store, ann)
    with pytest.raises(NotYours):
        submit(store, ann, hers)
    with pytest.raises(NotYours):
        next_item(store, ann)


def test_gold_items_and_repeats_come_by_their_shares_and_look_like_any_other(make):
    store, (ann, bob) = make(items=50, k=3, gold_share=0.15, repeat_share=0.15, seed=3)
    add_items(store, [gold(f"known {n}") for n in range(20)])
    done = work_off(store, ann)
    counts = Counter(kinds(store, done))
    assert counts["normal"] == 50
    for kind in ("gold", "repeat"):  # 3 standard deviations of a share of 0.15 among about 70
        assert 0.02 < counts[kind] / len(done) < 0.28
    with store.read() as session:
        of_task = dict(session.execute(select(TaskRow.id, TaskRow.of_task).where(TaskRow.kind == "repeat")).all())
    for task, first in of_task.items():
        assert done.index(task) - done.index(first) > REPEAT_AFTER
    assert len(set(of_task.values())) == len(of_task)
    assert Counter(kinds(store, work_off(store, bob)))["normal"] == 0  # the overlap of 1 is used up


def test_a_project_of_gold_items_alone_examines_annotators(make):
    store, (ann, bob) = make(items=0, gold_share=0.0)
    add_items(store, [gold(f"known {n}") for n in range(3)])
    assert len(work_off(store, ann)) == len(work_off(store, bob)) == 3


def test_the_order_is_the_annotator_s_own_stays_and_favours_no_place(make):
    store, people = make(items=1, k=6, people=4, overlap=4)
    seen = [[card.text for card in next_item(store, who).cards] for who in people]
    assert [[card.text for card in next_item(store, who).cards] for who in people] == seen
    assert len(set(map(tuple, seen))) > 1
    first = Counter(shown_order(range(4), shuffle_seed(0, task, 1))[0] for task in range(2000))
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in first.values())


def test_an_item_says_nothing_of_where_its_answers_came_from(make):
    store, (ann, _) = make()
    shown = repr(next_item(store, ann))
    assert "model" not in shown and "normal" not in shown and "A" in shown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (NewItem([Message("user", "q")], [NewCandidate("a")]), "1 candidates"),
        (NewItem([Message("user", "q")], [NewCandidate("a"), NewCandidate("a")]), "twice"),
        (NewItem([Message("user", "q")], [NewCandidate("a"), NewCandidate(" ")]), "empty"),
        (NewItem([Message("user", "q")], [NewCandidate("a"), NewCandidate("b\0")]), "NUL"),
        (NewItem([Message("assistant", "q")], [NewCandidate("a"), NewCandidate("b")]), "user"),
        (NewItem([Message("user", "q")], [NewCandidate("a"), NewCandidate("b")], gold_ranks=[1, 1]), "gold"),
        (NewItem([Message("user", "q")], [NewCandidate("a"), NewCandidate("b")], priority=float("inf")), "finite"),
    ],
)
def test_items_are_added_all_or_none(make, wrong, said):
    store, _ = make(items=0)
    good = NewItem([Message("user", "fine")], [NewCandidate("a"), NewCandidate("b")])
    with pytest.raises(UserError, match=f"item 2: .*{said}"):
        add_items(store, [good, wrong])
    assert add_items(store, [good]).items == 1


def test_a_prompt_with_the_same_answers_is_not_added_again_and_never_in_two_splits(make):
    store, _ = make(items=0)
    answers = [NewCandidate("a"), NewCandidate("b")]
    first = add_items(store, [NewItem([Message("user", "q")], answers, split="test")])
    again = add_items(store, [NewItem([Message("user", "q")], answers[::-1])])
    assert (again.items, again.duplicates, again.task_ids) == (0, 1, first.task_ids)
    other = add_items(store, [NewItem([Message("user", "q")], [*answers, NewCandidate("c")], split="train")])
    assert other.items == 1
    with store.read() as session:
        from lit_llm.feedback.store.tables import PromptRow

        assert session.scalars(select(PromptRow.split)).all() == ["test"]
