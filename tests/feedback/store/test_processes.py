"""Many processes on one database: no ranking is lost, doubled or stolen, whoever comes first."""

import multiprocessing
import threading
from collections import Counter

import pytest
from sqlalchemy import select

from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.judgements import Judgement, Stale, save, skip
from lit_llm.feedback.store.tables import AnnotationRevisionRow, AnnotationRow, AssignmentRow

fork = multiprocessing.get_context("fork")


def at_once(jobs):
    """Runs ``job(start, report)`` of each in a process of its own, all let off together; what they reported."""
    start, reports = fork.Barrier(len(jobs)), fork.SimpleQueue()

    def run(number, job):
        try:
            found = job(start)
        except BaseException as error:
            reports.put((number, repr(error)))
            raise
        reports.put((number, found))

    processes = [fork.Process(target=run, args=(n, job)) for n, job in enumerate(jobs)]
    for process in processes:
        process.start()
    found = dict(reports.get() for _ in jobs)
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * len(jobs), found
    return [found[n] for n in range(len(jobs))]


SET = threading.Event()
SET.set()


def annotate(place, who):
    """Works all items off: (task, assignment, version, key ranked best) of each acknowledged submission."""

    def job(start):
        store, done = open_store(place), []
        start.wait(30)
        while (item := next_item(store, who)) is not None:
            best = item.cards[(who + item.task_id) % len(item.cards)]
            ranks = {card.key: 1 if card == best else 2 for card in item.cards}
            version = save(store, who, item.assignment_id, item.version, Judgement(ranks), submit=False)
            if item.task_id % 7 == who % 7:
                skip(store, who, item.assignment_id, version, "one in seven")
                continue
            version = save(store, who, item.assignment_id, version, Judgement(ranks, seconds=9), submit=True)
            done.append((item.task_id, item.assignment_id, version, best.text))
        store.close()
        return done

    return job


@pytest.mark.parametrize(("people", "items", "overlap"), [(4, 12, 2), pytest.param(8, 120, 3, marks=pytest.mark.slow)])
def test_nothing_is_lost_doubled_or_stolen(make, place, people, items, overlap):
    store, everybody = make(items=items, people=people, overlap=overlap)
    store.close()
    jobs = [annotate(place, who) for who in everybody]
    found = at_once(jobs)
    # Who found all taken has left, and what was skipped after that waits for those who come again.
    while any(more := [job(SET) for job in jobs]):
        found = [before + later for before, later in zip(found, more, strict=True)]
    told = {(task, who): rest for who, done in zip(everybody, found, strict=True) for task, *rest in done}
    taken = Counter(task for task, _ in told)
    able = {task: sum(task % 7 != who % 7 for who in everybody) for task in range(1, items + 1)}
    assert taken == {task: min(overlap, able[task]) for task in able}
    with store.read() as session:
        kept = session.execute(
            select(AssignmentRow, AnnotationRow)
            .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
            .where(AssignmentRow.state == "submitted")
        ).all()
        revisions = Counter(session.scalars(select(AnnotationRevisionRow.assignment_id)))
        assert {(a.task_id, a.annotator_id) for a, _ in kept} == set(told)
        for assignment, annotation in kept:
            number, version, best = told[assignment.task_id, assignment.annotator_id]
            assert (assignment.id, annotation.version, revisions[assignment.id]) == (number, version, 2)
            ranked_first = [int(candidate) for candidate, rank in annotation.ranks.items() if rank == 1]
            assert [text_of(session, candidate) for candidate in ranked_first] == [best]


def text_of(session, candidate):
    from lit_llm.feedback.store.tables import CandidateRow

    return session.get(CandidateRow, candidate).text


def test_one_person_in_many_browsers_holds_one_item_and_one_write_wins(make, place):
    store, (ann, _) = make(items=20, people=2)
    store.close()

    def browser(number):
        def job(start):
            own, won = open_store(place), []
            start.wait(30)
            for _ in range(5):
                item = next_item(own, ann)
                try:
                    save(own, ann, item.assignment_id, item.version, Judgement(comment=str(number)), submit=False)
                    won.append((item.assignment_id, item.version + 1, str(number)))
                except Stale:
                    pass
            own.close()
            return won

        return job

    won = [write for writes in at_once([browser(n) for n in range(4)]) for write in writes]
    with store.read() as session:
        assert len(session.scalars(select(AssignmentRow)).all()) == 1
        kept = session.execute(
            select(AnnotationRevisionRow.assignment_id, AnnotationRevisionRow.version, AnnotationRevisionRow.judgement)
        ).all()
    assert sorted(won) == sorted((number, version, said["comment"]) for number, version, said in kept)
    assert len(won) >= 5
