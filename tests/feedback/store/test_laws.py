"""Laws of leases, overlap and versions, under any order of what annotators do and any passing of time."""

from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from lit_llm.feedback.store.assignment import next_item
from lit_llm.feedback.store.items import load_item
from lit_llm.feedback.store.judgements import Invalid, Judgement, LeaseLost, Stale, save, skip, undo
from lit_llm.feedback.store.tables import AnnotationRevisionRow, AnnotationRow, AssignmentRow, TaskRow

OVERLAP, ITEMS, LEASE = 2, 3, 600.0
people = st.integers(0, 3)


class Annotating(RuleBasedStateMachine):
    """Four people, three items, places for two each. ``acknowledged`` is what the people were told."""

    make = clock = new_place = None

    @initialize()
    def begin(self):
        self.store, self.people = self.make(ITEMS, 3, 4, self.new_place(), overlap=OVERLAP, lease_minutes=LEASE / 60)
        self.seen = defaultdict(dict)  # person -> assignment -> version seen last
        self.acknowledged = {}  # (assignment, version) -> (action, best card)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()

    def known(self, person, pick):
        items = sorted(self.seen[person].items())
        return items[pick % len(items)] if items else None

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE + 1]))
    def time_passes(self, seconds):
        self.clock.time += seconds

    @rule(person=people)
    def draws(self, person):
        before = self.holders()
        item = next_item(self.store, self.people[person])
        if item is not None:
            self.seen[person][item.assignment_id] = item.version
            assert item.lease_until > self.clock.time
        else:  # then no place was free that this person could have had
            for task, holders in before.items():
                assert len(holders) >= OVERLAP or person in self.finished(task)

    @rule(person=people, pick=st.integers(0, 9), best=st.sampled_from("ABC"), submit=st.booleans(), old=st.booleans())
    def saves(self, person, pick, best, submit, old):
        if (known := self.known(person, pick)) is None:
            return
        assignment, version = known
        ranks = {key: 1 if key == best else 2 for key in "ABC"}
        self.write("submit" if submit else "draft", person, assignment, version - old, Judgement(ranks), best)

    @rule(person=people, pick=st.integers(0, 9), old=st.booleans())
    def skips(self, person, pick, old):
        if (known := self.known(person, pick)) is not None:
            self.write("skip", person, known[0], known[1] - old, None, None)

    @rule(person=people)
    def undoes(self, person):
        before = self.everything()
        try:
            item = undo(self.store, self.people[person])
        except LeaseLost:
            assert self.everything() == before
            return
        if item is not None:
            self.seen[person][item.assignment_id] = item.version
            self.acknowledged[item.assignment_id, item.version] = "undo", None

    def write(self, action, person, assignment, version, judgement, best):
        who, before = self.people[person], self.everything()
        state, lease, kept = before[assignment]
        try:
            if action == "skip":
                new = skip(self.store, who, assignment, version, "a reason")
            else:
                new = save(self.store, who, assignment, version, judgement, submit=action == "submit")
        except Stale as refusal:
            assert version != kept and refusal.current == kept
            assert self.everything() == before
        except LeaseLost:
            assert state == "skipped" or lease <= self.clock.time
            assert self.everything() == before
        except Invalid as error:  # a submitted ranking is taken back by undo alone
            assert "undo" in str(error) and state == "submitted"
            assert self.everything() == before
        else:
            assert version == kept and new == version + 1
            self.acknowledged[assignment, new] = action, best
            self.seen[person][assignment] = new
            with self.store.read() as session:
                kept = load_item(session, session.get(AssignmentRow, assignment))
            assert best is None or kept.draft.ranks[best] == 1

    def everything(self):
        """Assignment -> state, lease, version."""
        with self.store.read() as session:
            rows = session.execute(
                select(AssignmentRow.id, AssignmentRow.state, AssignmentRow.lease_until, AnnotationRow.version).join(
                    AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id
                )
            )
            return {row[0]: tuple(row[1:]) for row in rows}

    def assignments(self):
        with self.store.read() as session:
            return session.scalars(select(AssignmentRow)).all()

    def holders(self):
        """Task -> the people whose places are taken."""
        found = {task: set() for task in range(1, ITEMS + 1)}
        for row in self.assignments():
            live = row.state in ("leased", "draft") and row.lease_until > self.clock.time
            if row.state == "submitted" or live:
                found[row.task_id].add(self.people.index(row.annotator_id))
        return found

    def finished(self, task):
        return {
            self.people.index(row.annotator_id)
            for row in self.assignments()
            if row.task_id == task and row.state in ("submitted", "skipped")
        }

    @invariant()
    def no_task_has_more_places_taken_than_its_overlap(self):
        if hasattr(self, "store"):
            assert all(len(holders) <= OVERLAP for holders in self.holders().values())
            pairs = Counter((row.task_id, row.annotator_id) for row in self.assignments())
            assert not pairs or max(pairs.values()) == 1

    @invariant()
    def the_revisions_are_exactly_what_was_acknowledged(self):
        if not hasattr(self, "store"):
            return
        with self.store.read() as session:
            found = session.scalars(select(AnnotationRevisionRow)).all()
            versions = dict(session.execute(select(AnnotationRow.assignment_id, AnnotationRow.version)).all())
            tasks = session.scalars(select(TaskRow.kind)).all()
        assert {(row.assignment_id, row.version): row.action for row in found} == {
            place: action for place, (action, _) in self.acknowledged.items()
        }
        for row in found:
            best = self.acknowledged[row.assignment_id, row.version][1]
            assert best is None or sorted(row.judgement["ranks"].values()) == [1, 2, 2]
        newest = Counter(row.assignment_id for row in found)
        assert versions == {number: newest[number] for number in versions}  # versions have no gap
        assert tasks == ["normal"] * ITEMS


@pytest.mark.parametrize(("examples", "steps"), [(8, 25), pytest.param(60, 40, marks=pytest.mark.slow)])
def test_leases_overlap_and_versions(make, clock, new_place, examples, steps):
    parts = {"make": staticmethod(make), "clock": clock, "new_place": staticmethod(new_place)}
    machine = type("Machine", (Annotating,), parts)
    checks = list(HealthCheck)
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=limits)
