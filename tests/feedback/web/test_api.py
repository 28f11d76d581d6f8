"""The JSON twin: versions in If-Match and ETag, refusals by status, and nothing but what an annotator may know."""

import json

import pytest

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.judgement import MOST_FLAGS
from lit_llm.feedback.store.rankings import rows

JUDGEMENT = {
    "submit": True, "ranks": {"A": 2, "B": 1}, "comment": "ok", "seconds": 12,
    "ratings": {"A": {"helpful": 3, "honest": None, "harmless": 7}},
    "flags": [{"key": "A", "kind": "privacy", "severity": 1, "start": 0, "end": 6}],
}  # fmt: skip


@pytest.fixture
def put(annotator):
    """Saves the annotator's item under a version."""
    started = annotator.get("/api/next").json()
    path = f"/api/items/{started['item']['assignment_id']}"

    def send(content, version=0, method="PUT", tail=""):
        headers = {"X-CSRF-Token": started["csrf"], **({} if version is None else {"If-Match": f'"{version}"'})}
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers["Content-Type"] = "application/json"
        return annotator.request(method, path + tail, content=content, headers=headers)

    return send


def test_an_item_says_what_is_needed_and_no_more(annotator):
    answer = annotator.get("/api/next")
    item = answer.json()["item"]
    known = {"assignment_id", "version", "state", "lease_until", "now", "messages", "cards", "draft"}
    assert set(item) == known and [set(card) for card in item["cards"]] == [{"key", "text"}] * 4
    assert answer.headers["etag"] == '"0"' and item["lease_until"] > item["now"]


def test_a_draft_then_a_submission(put, annotator, store):
    draft = put({**JUDGEMENT, "submit": False})
    assert (draft.status_code, draft.json()["version"], draft.headers["etag"]) == (200, 1, '"1"')
    assert annotator.get("/api/next").json()["item"]["draft"]["comment"] == "ok"
    assert put(JUDGEMENT, 1).json() == {"version": 2, "submitted": True}
    (row,) = rows(store, too_fast=True)
    assert row["ranking"] in ([1, 2], [2, 1]) and row["flags"][0]["end"] == 6
    assert annotator.get("/api/progress").json()["mine"] == 1


def test_a_stale_write_is_told_what_is_saved(put, store):
    put(JUDGEMENT)
    late = put({**JUDGEMENT, "comment": "late"})
    content = late.json()
    assert (late.status_code, content["version"], content["saved"]["comment"]) == (409, 1, "ok")
    assert "B &gt; A" in content["saved_html"]
    assert next(iter(rows(store, too_fast=True)))["comment"] == "ok"


@pytest.mark.parametrize(
    ("content", "version", "status"),
    [
        (JUDGEMENT, None, 428),
        ({**JUDGEMENT, "ranks": {"A": 1}}, 0, 422),
        ({**JUDGEMENT, "ranks": {"Z": 1, "A": 2}}, 0, 422),
        ({**JUDGEMENT, "flags": [{"key": "A", "kind": "none such"}]}, 0, 422),
        ({**JUDGEMENT, "flags": [{"key": "A", "kind": "other", "start": 3, "end": 9999}]}, 0, 422),
        ({**JUDGEMENT, "ratings": {"A": {"helpful": 8}}}, 0, 422),
        ({**JUDGEMENT, "colour": 1}, 0, 422),
        ([], 0, 400),
        (b"[" * 900 + b"]" * 900, 0, 400),
        (b'{"ranks": ' + b"[" * 900 + b"]" * 900 + b"}", 0, 400),
        (b'{"flags": [' + b'{"key":' * 900 + b"1" + b"}" * 900 + b"]}", 0, 400),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(put, annotator, content, version, status):
    answer = put(content, version)
    assert answer.status_code == status and answer.json()["error"]
    assert annotator.get("/api/next").json()["item"]["version"] == 0


def test_as_many_flags_as_the_store_keeps(put):
    flags = [{"key": "A", "kind": "other", "start": n % 5, "end": 6} for n in range(MOST_FLAGS + 1)]
    assert put({**JUDGEMENT, "flags": flags}).status_code == 422
    assert put({**JUDGEMENT, "flags": flags[1:]}).status_code == 200


def test_halves_of_surrogate_pairs_and_nul_do_not_break_the_database(put, store):
    assert put(json.dumps({**JUDGEMENT, "comment": "a\ud800b\x00c"}).encode()).status_code == 200
    assert next(iter(rows(store, too_fast=True)))["comment"] == "a?bc"


def test_a_lost_lease_is_410(put, store):
    began, bo = store.now, accounts.add_annotator(store, "Bo", "correct horse battery")
    store.now = lambda: began() + 3600
    from lit_llm.feedback.store import assignment

    assignment.next_item(store, bo.id)
    assert put(JUDGEMENT).status_code == 410


def test_skip_and_undo(put, annotator, store):
    assert put({"reason": ""}, method="POST", tail="/skip").status_code == 422
    assert put({"reason": "unclear"}, method="POST", tail="/skip").json() == {"version": 1, "skipped": True}
    token = annotator.get("/api/progress").json()["csrf"]
    back = annotator.post("/api/undo", json={}, headers={"X-CSRF-Token": token}).json()["item"]
    assert back["state"] in ("leased", "draft") and not list(rows(store, too_fast=True))


def test_who_is_not_logged_in_gets_401(client):
    for path in ("/api/next", "/api/progress", "/api/items/1"):
        assert client.get(path).status_code == 401


@pytest.mark.parametrize("number", ["2147483648", "9223372036854775808", "9" * 5000, "0", "-1", "x"])
def test_a_number_that_no_database_holds_is_not_found(annotator, number):
    headers = {"X-CSRF-Token": annotator.get("/api/next").json()["csrf"], "If-Match": '"0"'}
    assert annotator.get(f"/api/items/{number}").status_code == 404
    assert annotator.put(f"/api/items/{number}", json=JUDGEMENT, headers=headers).status_code == 404
    assert annotator.get(f"/items/{number}").status_code == 404
    named = "0" if number == "x" else number
    undone = annotator.post(
        "/api/undo", content=f'{{"assignment_id": {named}}}', headers=headers | {"Content-Type": "application/json"}
    )
    assert undone.status_code in (400, 404)


def test_unknown_addresses_are_answered_in_json(annotator):
    assert annotator.get("/api/nowhere").json() == {"error": "Not Found"}
