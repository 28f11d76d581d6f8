"""What is saved, refused, skipped and taken back."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from lit_llm.feedback.store.assignment import next_item, open_item
from lit_llm.feedback.store.judgement import Flag, checked, dense
from lit_llm.feedback.store.judgements import Invalid, Judgement, LeaseLost, NotYours, Stale, recent, save, skip, undo
from lit_llm.feedback.store.project_settings import ProjectSettings
from lit_llm.feedback.store.tables import AnnotationRevisionRow, AnnotationRow

RANKED = Judgement({"A": 1, "B": 2}, seconds=9)
TEXTS = {"A": "first", "B": "second", "C": "third 😀"}


def finish(store, who, count):
    items = []
    for _ in range(count):
        items.append(next_item(store, who))
        save(store, who, items[-1].assignment_id, items[-1].version, RANKED, submit=True)
    return items


def test_everything_said_comes_back_as_it_was(make):
    store, (ann, _) = make()
    item = next_item(store, ann)
    flags = (Flag("A", "privacy", 3, 2, 5), Flag("D", "other", 1))
    said = Judgement(
        {"A": 2, "B": 1, "C": 2, "D": None}, False, "נחמד — 好", {"B": {"helpful": 7, "honest": None, "harmless": 1}},
        {"C": "<script>alert(1)</script>"}, flags, 12.5,
    )  # fmt: skip
    assert save(store, ann, item.assignment_id, 0, said, submit=False) == 1
    assert open_item(store, ann, item.assignment_id).draft == said
    changed = replace(said, flags=(), ratings={}, notes={}, comment="")
    save(store, ann, item.assignment_id, 1, changed, submit=True)
    kept = open_item(store, ann, item.assignment_id)
    assert (kept.draft, kept.state, kept.version) == (changed, "submitted", 2)


def test_a_stale_write_changes_nothing_and_is_told_the_version(make):
    store, (ann, _) = make()
    item = next_item(store, ann)
    save(store, ann, item.assignment_id, 0, RANKED, submit=False)
    for attempt in (
        lambda: save(store, ann, item.assignment_id, 0, Judgement({"A": 2, "B": 1}), submit=True),
        lambda: skip(store, ann, item.assignment_id, 0, "late"),
        lambda: save(store, ann, item.assignment_id, 7, RANKED, submit=False),
    ):
        with pytest.raises(Stale) as caught:
            attempt()
        assert caught.value.current == 1
    kept = open_item(store, ann, item.assignment_id)
    assert (kept.draft.ranks["A"], kept.state, kept.version) == (1, "draft", 1)


def test_submitting_needs_two_ranks_or_all_bad(make):
    store, (ann, _) = make()
    item = next_item(store, ann)
    for too_little in ({}, {"A": 1}, {"A": 1, "B": None}):
        with pytest.raises(Invalid, match="rank at least 2"):
            save(store, ann, item.assignment_id, 0, Judgement(too_little), submit=True)
        checked(Judgement(too_little), {c.key: c.text for c in item.cards}, ProjectSettings(), submit=False)
    assert save(store, ann, item.assignment_id, 0, Judgement(all_bad=True), submit=True) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Judgement({"Z": 1}), "no card 'Z'"),
        (Judgement({"A": 0}), "rank of card A: 0"),
        (Judgement({"A": 4}), "from 1 to 3"),
        (Judgement({"A": True}), "whole number"),
        (Judgement(ratings={"A": {"helpful": 8}}), "helpful of card A: 8"),
        (Judgement(ratings={"A": {"polite": 3}}), "polite"),
        (Judgement(flags=(Flag("A", "rude"),)), "rude"),
        (Judgement(flags=(Flag("A", "privacy", 4),)), "severity"),
        (Judgement(flags=(Flag("C", "privacy", 1, 3, 8),)), "3-8 is no stretch of the 7 characters"),
        (Judgement(flags=(Flag("A", "privacy", 1, 2),)), "no stretch"),
        (Judgement(comment="x" * 10_001), "10001 characters"),
        (Judgement(comment="\0"), "NUL"),
        (Judgement(notes={"A": "\ud83d"}), "surrogate"),
        (Judgement(seconds=math.nan), "seconds"),
        (Judgement(all_bad="yes"), "all_bad"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(wrong, said):
    with pytest.raises(Invalid, match=said):
        checked(wrong, TEXTS, ProjectSettings(), submit=False)


def test_ties_only_where_they_are_allowed():
    tied = Judgement({"A": 1, "B": 1, "C": 2})
    assert checked(tied, TEXTS, ProjectSettings(), submit=True).ranks == {"A": 1, "B": 1, "C": 2}
    with pytest.raises(Invalid, match="ties"):
        checked(tied, TEXTS, ProjectSettings(allow_ties=False), submit=True)


@given(st.dictionaries(st.sampled_from("ABCDEFG"), st.none() | st.integers(1, 9)))
def test_dense_ranks_keep_the_order_and_have_no_gaps(ranks):
    found = dense(ranks)
    given_ranks = {key: rank for key, rank in ranks.items() if rank is not None}
    assert {key for key, rank in found.items() if rank is None} == set(ranks) - set(given_ranks)
    assert sorted({found[key] for key in given_ranks}) == list(range(1, len(set(given_ranks.values())) + 1))
    assert all((ranks[a] < ranks[b]) == (found[a] < found[b]) for a in given_ranks for b in given_ranks)


@pytest.mark.parametrize(("page", "store_saw", "marked"), [(9, 9, False), (2, 9, True), (9, 2, True), (5, 5, False)])
def test_the_time_floor_holds_by_the_page_s_clock_and_by_the_store_s(make, clock, page, store_saw, marked):
    store, (ann, _) = make(min_seconds=5.0)
    item = next_item(store, ann)
    clock.time += store_saw
    save(store, ann, item.assignment_id, 0, replace(RANKED, seconds=page), submit=True)
    with store.read() as session:
        assert session.scalars(select(AnnotationRow.too_fast)).all() == [marked]


def test_a_skip_needs_a_reason_leaves_the_place_and_never_comes_back(make):
    store, (ann, bob) = make(items=1)
    item = next_item(store, ann)
    with pytest.raises(Invalid, match="reason"):
        skip(store, ann, item.assignment_id, 0, "  ")
    assert skip(store, ann, item.assignment_id, 0, "not my field") == 1
    assert next_item(store, ann) is None
    assert next_item(store, bob).task_id == item.task_id
    with pytest.raises(LeaseLost):  # it is Bob's now
        undo(store, ann)


def test_undo_goes_back_through_the_last_ten_and_no_further(make):
    store, (ann, _) = make(items=13)
    items = finish(store, ann, 12)
    skip(store, ann, next_item(store, ann).assignment_id, 0, "last")
    taken = []
    while (item := undo(store, ann)) is not None:
        assert (item.state, item.version) == ("draft", 2)
        taken.append(item.assignment_id)
    assert taken[1:] == [item.assignment_id for item in items[:2:-1]]
    assert len(taken) == len(recent(store, ann)) == 10
    assert open_item(store, ann, taken[5]).draft.ranks["A"] == 1  # what it said is there
    with pytest.raises(NotYours):
        undo(store, ann, items[0].assignment_id)


def test_undo_of_a_named_one_and_recent_tell_the_state(make):
    store, (ann, bob) = make(items=4)
    items = finish(store, ann, 3)
    named = items[1].assignment_id
    assert undo(store, ann, named).assignment_id == named
    assert [(one.assignment_id == named, one.state) for one in recent(store, ann)] == [
        (False, "submitted"), (True, "draft"), (False, "submitted")
    ]  # fmt: skip
    assert recent(store, bob) == [] and undo(store, bob) is None
    assert next_item(store, ann).assignment_id == named


def test_a_correction_replaces_and_both_are_in_the_revisions(make):
    store, (ann, _) = make()
    item = finish(store, ann, 1)[0]
    with pytest.raises(Invalid, match="undo"):
        save(store, ann, item.assignment_id, 1, RANKED, submit=False)
    assert save(store, ann, item.assignment_id, 1, Judgement({"A": 2, "B": 1}), submit=True) == 2
    with store.read() as session:
        found = session.scalars(select(AnnotationRevisionRow).order_by(AnnotationRevisionRow.version)).all()
        assert [(one.version, one.action) for one in found] == [(1, "submit"), (2, "submit")]
        assert found[0].judgement["ranks"] != found[1].judgement["ranks"]
