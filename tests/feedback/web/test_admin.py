"""The admin's pages: roles, progress, agreement, adjudication, accounts, export."""

import json
import re

import pytest
from starlette.testclient import TestClient

from lit_llm.feedback.exporting import export
from lit_llm.feedback.store import accounts, assignment, judgements
from lit_llm.feedback.store.adjudication import dispute
from lit_llm.feedback.store.exports import exports
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.progress import progress
from lit_llm.feedback.store.projects import change_settings, set_priorities
from lit_llm.feedback.store.rankings import rows

ADMIN_PAGES = ("/admin", "/admin/agreement", "/admin/annotators")


@pytest.fixture
def boss(client, admin, enter):  # noqa: ARG001
    assert enter(client, "Root").status_code == 200
    return client


@pytest.fixture
def disputed(store, ada):
    """Ada and Bo rank the same item the opposite ways round."""
    change_settings(store, overlap=2)
    set_priorities(store, {1: 9.0})
    bo = accounts.add_annotator(store, "Bo", "correct horse battery")
    items = {}
    for who, backwards in ((ada, False), (bo, True)):
        item = assignment.next_item(store, who.id)
        keys = [card.key for card in sorted(item.cards, key=lambda card: card.text, reverse=backwards)]
        said = Judgement({key: place for place, key in enumerate(keys, 1)}, comment=f"{who.name} said so", seconds=30)
        judgements.save(store, who.id, item.assignment_id, 0, said, True)
        items[who.name] = item.task_id
    assert items["Ada"] == items["Bo"]
    return items["Ada"]


def test_annotators_see_none_of_it(annotator, client):
    for path in (*ADMIN_PAGES, "/admin/adjudicate"):
        assert annotator.get(path).status_code == 403
    client.cookies.clear()
    assert client.get("/admin", follow_redirects=False).headers["location"] == "/login"


def test_an_adjudicator_sees_the_disputes_only(client, store, enter, send):
    accounts.add_annotator(store, "Judge", "correct horse battery", role="adjudicator")
    enter(client, "Judge")
    assert client.get("/admin/adjudicate").status_code == 200
    assert [client.get(path).status_code for path in ADMIN_PAGES] == [403] * 3
    assert send(client, "/admin/export", kind="rankings").status_code == 403


def test_an_admin_who_logs_in_takes_no_item(boss, store):  # noqa: ARG001
    assert progress(store).open == 0


def test_progress(boss, disputed):  # noqa: ARG001
    page = boss.get("/admin").text
    assert "2 of 10 rankings" in page and re.search(r"Ada.*?<td class=\"number\">1</td>", page, re.S)


def test_agreement(boss, disputed):  # noqa: ARG001
    page = boss.get("/admin/agreement").text
    assert "2 rankings of 1 prompts by 2 annotators" in page
    assert "Two annotators order two answers alike 0% of the time, where chance alone gives 50%" in page
    assert re.search(r"Pairs ordered alike</td><td class=\"number\"><bdi>0\.0%", page)
    assert "Krippendorff" in page and "NaN" not in page and "nan" not in re.sub(r"<[^>]*>", "", page)


def test_a_dispute_is_decided(boss, store, disputed, send):
    listed = boss.get("/admin/adjudicate").text
    assert f"/admin/adjudicate/{disputed}" in listed and "0%" in listed
    page = boss.get(f"/admin/adjudicate/{disputed}").text
    assert "Ada said so" in page and "Bo said so" in page and "SECRET" not in page
    few = send(boss, f"/admin/adjudicate/{disputed}", action="submit", version="0", **{"rank.A": "1"})
    assert few.status_code == 422 and 'name="version" value="0"' in few.text
    ranks = {"rank.A": "1", "rank.B": "2", "rank.C": "2"}
    done = send(boss, f"/admin/adjudicate/{disputed}", action="submit", version="0", **ranks)
    assert done.headers["location"] == "/admin/adjudicate?done=1"
    assert dict(dispute(store, disputed).final.ranks) == {"A": 1, "B": 2, "C": 2, "D": None}
    assert f'/admin/adjudicate/{disputed}"' not in boss.get("/admin/adjudicate").text
    assert f'/admin/adjudicate/{disputed}"' in boss.get("/admin/adjudicate?decided=1").text
    assert boss.get("/admin/adjudicate/4711").status_code == 404


def test_the_later_of_two_decisions_is_told_of_the_first(boss, store, disputed, send):
    path, first = f"/admin/adjudicate/{disputed}", {"rank.A": "1", "rank.B": "2"}
    seen = re.search('name="version" value="([0-9]+)"', boss.get(path).text)[1]
    assert send(boss, path, action="submit", version=seen, **first).status_code == 303
    late = send(
        boss, path, action="submit", version=seen, comment="from the other tab", **{"rank.A": "2", "rank.B": "1"}
    )
    assert late.status_code == 409 and "A &gt; B" in late.text and "from the other tab" in late.text
    assert dispute(store, disputed).final.ranks["A"] == 1
    now = re.search('name="version" value="([0-9]+)"', late.text)[1]
    assert send(boss, path, action="submit", version=now, **{"rank.A": "2", "rank.B": "1"}).status_code == 303
    assert dispute(store, disputed).final.ranks["A"] == 2


def test_a_new_annotator_can_log_in_with_the_password_that_is_shown_once(boss, app, send, enter):
    page = send(boss, "/admin/annotators", name="Zoë <b>", role="annotator", language="ar")
    password = re.search(r'class="password" dir="ltr">([^<]+)<', page.text)[1]
    assert page.status_code == 201 and "Zoë &lt;b&gt;" in page.text
    assert password not in boss.get("/admin/annotators").text
    other = TestClient(app, base_url="http://127.0.0.1")
    assert 'lang="ar"' in enter(other, "Zoë <b>", password).text
    twice = send(boss, "/admin/annotators", name="Zoë <b>", role="annotator", language="ar")
    assert twice.status_code == 422 and "Zoë" in twice.text
    assert send(boss, "/admin/annotators", name="X", role="king", language="en").status_code == 400


def test_reset_and_deactivate(boss, app, ada, admin, send, enter):
    page = send(boss, f"/admin/annotators/{ada.id}/password")
    password = re.search(r'class="password" dir="ltr">([^<]+)<', page.text)[1]
    other = TestClient(app, base_url="http://127.0.0.1")
    assert enter(other, "Ada").status_code == 401 and enter(other, "Ada", password).status_code == 200
    assert "can no longer log in" in send(boss, f"/admin/annotators/{ada.id}/deactivate").text
    assert other.get("/api/next").status_code == 401
    assert send(boss, f"/admin/annotators/{admin.id}/deactivate").status_code == 422  # the last admin
    assert send(boss, "/admin/annotators/4711/password").status_code == 404


def uploaded(client, rows, name="validation.jsonl", **fields):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.post("/admin/import", files={"file": (name, content)}, data=fields)


def test_import(boss, store):
    token = re.search('name="csrf" value="([^"]+)"', boss.get("/admin").text)[1]
    row = {
        "prompt": "What is new?",
        "completions": ["this", "that"],
        "ranking": [2, 1],
        "annotator": "afar",
        "split": "test",
    }
    before = progress(store)
    bad = uploaded(boss, [row, {"prompt": "p", "completions": ["one"]}], csrf=token)
    assert bad.status_code == 422 and "validation.jsonl:2" in bad.text and "/tmp" not in bad.text
    assert progress(store) == before  # all or none
    assert uploaded(boss, [row]).status_code == 403
    good = uploaded(boss, [row], csrf=token)
    assert good.status_code == 200 and "1 new items, 1 rankings" in good.text
    (kept,) = rows(store)
    assert (kept["split"], kept["annotator"], kept["ranking"]) == ("test", "afar", [2, 1])
    assert boss.post("/admin/import", data={"csrf": token}).status_code == 415
    assert boss.post("/admin/import", data={"csrf": token}, files={"other": b"x"}).status_code == 400


def test_an_annotator_imports_nothing(annotator):
    token = re.search('name="csrf" value="([^"]+)"', annotator.get("/help").text)[1]
    assert uploaded(annotator, [], csrf=token).status_code == 403


def test_agreement_and_users_as_json(boss, client, disputed, enter):  # noqa: ARG001
    found = boss.get("/api/agreement").json()
    assert found["pair_agreement"]["mean"] == 0 and found["alpha_ranks"]["n"] == 1
    users = boss.get("/api/users").json()["users"]
    assert [(one["name"], one["role"], one["active"]) for one in users] == [
        ("Root", "admin", True), ("Ada", "annotator", True), ("Bo", "annotator", True)
    ]  # fmt: skip
    assert "password" not in json.dumps(users)
    enter(client, "Bo")
    assert [client.get(f"/api/{name}").status_code for name in ("agreement", "users")] == [403, 403]


@pytest.mark.parametrize(("kind", "count"), [("rankings", 2), ("pairs", 12), ("labels", 4)])
def test_export(boss, store, tmp_path, disputed, send, kind, count):  # noqa: ARG001
    answer = send(boss, "/admin/export", kind=kind)
    assert answer.headers["content-disposition"] == f'attachment; filename="{kind}.jsonl"'
    assert len(answer.text.splitlines()) == count
    export(store, kind, tmp_path / "file.jsonl")
    assert answer.content == (tmp_path / "file.jsonl").read_bytes()
    by_file, by_page = exports(store)
    assert (by_page.hash, by_page.counts, by_page.kind) == (by_file.hash, by_file.counts, kind)
    assert boss.get("/admin").text.count(by_page.hash[:16]) == 2


def test_an_export_that_there_is_not(boss, store, send):
    assert send(boss, "/admin/export", kind="secrets").status_code == 404
    assert boss.get("/admin/export?kind=rankings").status_code == 405  # what is noted needs the token
    assert exports(store) == []
