"""Accounts: hashed, throttled, pseudonymous; what ends a session ends it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from lit_llm.errors import UserError
from lit_llm.feedback.store import throttle
from lit_llm.feedback.store.accounts import (
    account,
    add_annotator,
    annotators,
    authenticate,
    deactivate,
    set_password,
)
from lit_llm.feedback.store.refusals import Throttled
from lit_llm.feedback.store.tables import AnnotatorRow


def test_only_the_hash_of_a_password_is_kept_and_the_pseudonym_says_nothing(make):
    store, _ = make(people=0)
    ann = add_annotator(store, "Ann O'Neill")
    with store.read() as session:
        row = session.scalars(select(AnnotatorRow)).one()
        assert row.password_hash.startswith("$argon2id$") and ann.password not in row.password_hash
    assert len(ann.password) >= 12 and "ann o" not in ann.pseudonym.lower()
    assert authenticate(store, "ann o'neill ", ann.password).id == ann.id
    assert authenticate(store, "Ann O'Neill", ann.password + "x") is None
    assert authenticate(store, "nobody", ann.password) is None


@pytest.mark.parametrize("name", ["ANN", " ann", "Ａｎｎ"])
def test_a_name_is_taken_however_it_is_written(make, name):
    store, _ = make(people=0)
    add_annotator(store, "Ann")
    with pytest.raises(UserError, match="already"):
        add_annotator(store, name)
    assert [one.name for one in annotators(store)] == ["Ann"]


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"name": "a\nb"}, {"name": "x" * 81}, {"name": "z\0"}, {"role": "king"}, {"password": "short"}],
)
def test_what_no_account_can_have_is_refused(make, wrong):
    store, _ = make(people=0)
    with pytest.raises(UserError):
        add_annotator(store, **({"name": "Ann"} | wrong))


def test_failures_slow_down_double_the_wait_and_are_forgotten_in_time(make, clock):
    store, _ = make(people=0)
    add_annotator(store, "Ann", "right-password")
    for _ in range(throttle.FREE_FROM_ADDRESS_TO_NAME):
        assert authenticate(store, "Ann", "wrong", "10.0.0.1") is None
    waits = []
    for _ in range(4):
        with pytest.raises(Throttled) as caught:
            authenticate(store, "Ann", "right-password", "10.0.0.1")
        waits.append(caught.value.seconds)
        clock.time += caught.value.seconds
        assert authenticate(store, "Ann", "wrong", "10.0.0.1") is None
    assert waits == [1, 2, 4, 8]
    assert authenticate(store, "Ann", "right-password", "10.0.0.2")  # she is not locked out elsewhere
    clock.time += throttle.WINDOW + 1
    assert authenticate(store, "Ann", "right-password", "10.0.0.1")


def test_one_address_that_tries_many_names_is_slowed_down(make):
    store, _ = make(people=0)
    with pytest.raises(Throttled):
        for n in range(throttle.FREE_FROM_ADDRESS + 1):
            authenticate(store, f"name {n}", "wrong", "10.0.0.1")


def test_many_guesses_at_once_gain_nothing(make):
    store, _ = make(people=0)
    add_annotator(store, "Ann", "right-password")

    def guess(n):
        try:
            return authenticate(store, "Ann", f"guess {n}", "10.0.0.1")
        except Throttled:
            return "throttled"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(guess, range(24)))
    assert found.count("throttled") == 24 - throttle.FREE_FROM_ADDRESS_TO_NAME


def test_a_changed_password_ends_sessions_and_the_throttling(make):
    store, _ = make(people=0)
    ann = add_annotator(store, "Ann", "old-password")
    before = account(store, ann.id).session_version
    for _ in range(throttle.FREE_FROM_ADDRESS_TO_NAME):
        authenticate(store, "Ann", "wrong")
    new = set_password(store, ann.id)
    assert account(store, ann.id).session_version > before
    assert authenticate(store, "Ann", new).id == ann.id
    assert authenticate(store, "Ann", "old-password") is None


def test_a_deactivated_account_takes_no_log_in_and_the_last_admin_stays(make):
    store, _ = make(people=0)
    ann, root = add_annotator(store, "Ann", "ann-password"), add_annotator(store, "Root", "root-password", "admin")
    deactivate(store, ann.id)
    assert authenticate(store, "Ann", "ann-password") is None
    assert account(store, ann.id).active is False and account(store, 99) is None
    with pytest.raises(UserError, match="last admin"):
        deactivate(store, root.id)
