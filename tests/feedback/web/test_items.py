"""The annotator's pages without script, in process: save, submit, skip, undo, conflicts, lost leases; and blindness."""

import re

import pytest
from starlette.testclient import TestClient

from lit_llm.feedback.store import accounts, judgements
from lit_llm.feedback.store.projects import change_settings
from lit_llm.feedback.store.rankings import rows

RANKS = {"rank.A": "1", "rank.B": "2", "rank.C": "2", "rank.D": ""}
ENTERED = {
    **RANKS, "action": "submit", "comment": "B and C say the same.", "note.A": "Clear.", "helpful.A": "6",
    "flag_kind.D": "fails_task", "flag_severity.D": "3", "flag_quote.D": "Answer", "version": "0",
}  # fmt: skip


def here(client):
    """The address of the annotator's item."""
    return client.get("/", follow_redirects=False).headers["location"].partition("?")[0]


@pytest.fixture
def second(app, annotator, enter):  # noqa: ARG001 - the account must be there
    """Ada in another browser."""
    client = TestClient(app, base_url="http://127.0.0.1")
    assert enter(client, "Ada").status_code == 200
    return client


def test_a_ranking_through_the_plain_form(annotator, send, store):
    place = here(annotator)
    answer = send(annotator, place, **ENTERED)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?done=saved")
    (row,) = rows(store, too_fast=True)
    assert sorted(row["ranking"]) == [1, 2, 2] and row["comment"] == "B and C say the same."
    assert "Your ranking was saved" in annotator.get("/?done=saved").text
    assert here(annotator) != place


@pytest.mark.parametrize(("code", "said"), [("en", "ties are not allowed"), ("ar", "لا يُسمح بالتعادل هنا")])
def test_what_the_store_refuses_is_told_in_the_page_s_language(annotator, send, store, code, said):
    change_settings(store, allow_ties=False)
    send(annotator, "/language", language=code)
    place = here(annotator)
    refused = send(annotator, place, **{**ENTERED, "flag_kind.D": "", "flag_quote.D": ""})
    assert refused.status_code == 422 and said in refused.text and "B and C say the same." in refused.text
    headers = {"X-CSRF-Token": annotator.get("/api/progress").json()["csrf"], "If-Match": '"0"'}
    tied = {"ranks": {"A": 1, "B": 1}, "submit": True}
    answer = annotator.put(f"/api{place}", json=tied, headers=headers).json()
    assert said in answer["text"] and answer["error"].startswith("two cards have the same rank")


def test_a_ranking_that_was_too_fast_comes_again_and_says_why(annotator, send, store):
    change_settings(store, min_seconds=60.0)
    for _ in range(5):
        place = here(annotator)
        assert "very quickly" not in annotator.get(place).text
        send(annotator, place, **{"version": "0", "rank.A": "1", "rank.B": "2", "action": "submit"})
    place = here(annotator)
    page = annotator.get(place).text
    assert "very quickly" in page and ranks_on(page) == {"A": "1", "B": "2", "C": "", "D": ""}
    send(annotator, place, version="2", seconds="90", action="save", **{"rank.A": "1", "rank.B": "2"})
    assert "very quickly" not in annotator.get(place).text


def test_a_flag_by_its_passage(annotator, send):
    place = here(annotator)
    send(annotator, place, **{**ENTERED, "action": "flag:D"})
    assert "Fails the task · severe · “Answer”" in annotator.get(place).text
    wrong = send(annotator, place, **{**ENTERED, "version": "1", "flag_quote.D": "nowhere in it"})
    assert wrong.status_code == 422 and "does not stand in answer D" in wrong.text
    assert "nowhere in it" in wrong.text and "B and C say the same." in wrong.text


def test_the_arrows(annotator, send):
    place = here(annotator)
    assert send(annotator, place, **{**RANKS, "version": "0", "action": "up:D"}).headers["location"].endswith("#card-D")
    assert ranks_on(annotator.get(place).text) == {"A": "1", "B": "2", "C": "2", "D": "3"}


def ranks_on(html):
    found = {}
    for key, options in re.findall(r'<select name="rank\.(\w)"(.*?)</select>', html, re.S):
        chosen = re.findall(r'value="(\d)" selected', options)
        found[key] = chosen[0] if chosen else ""
    return found


def test_a_submission_of_too_little_comes_back_with_what_was_entered(annotator, send):
    place = here(annotator)
    answer = send(annotator, place, version="0", action="submit", **{"rank.A": "1", "comment": "only one"})
    assert (
        answer.status_code == 422
        and "only one" in answer.text
        and "Rank at least two" in answer.text
        and ranks_on(answer.text)["A"] == "1"
    )
    assert send(annotator, place, version="0", action="submit", all_bad="1").status_code == 303


def test_the_loser_of_a_race_is_told_and_loses_nothing(annotator, second, send, store):
    place = here(annotator)
    assert here(second) == place
    send(annotator, place, **{**ENTERED, "comment": "the first browser"})
    late = send(second, place, **{**ENTERED, "rank.A": "2", "rank.B": "1", "comment": "the second browser"})
    assert late.status_code == 409 and "changed in another window" in late.text
    assert ranks_on(late.text) == {"A": "2", "B": "1", "C": "2", "D": ""}  # what the loser entered, in the form
    assert "the second browser" in late.text and "the first browser" in late.text and "A &gt; B = C" in late.text
    (row,) = rows(store, too_fast=True)
    assert row["comment"] == "the first browser"
    version = re.search(r'name="version" value="(\d+)"', late.text)[1]
    again = send(second, place, **{**ENTERED, "comment": "the second browser", "version": version})
    assert again.status_code == 303
    (row,) = rows(store, too_fast=True)
    assert row["comment"] == "the second browser"


def test_a_lost_lease(annotator, send, store, app, enter):
    place = here(annotator)
    accounts.add_annotator(store, "Bo", "correct horse battery")
    other, began = TestClient(app, base_url="http://127.0.0.1"), store.now
    store.now = lambda: began() + 3600
    enter(other, "Bo")
    taken = [other.get("/api/next").json()["item"]]
    send(other, f"/items/{taken[0]['assignment_id']}", **ENTERED)
    late = send(annotator, place, **ENTERED)
    assert late.status_code == 410 and "somebody else" in late.text
    assert "B and C say the same." in late.text and "Clear." in late.text  # to be copied


def test_skipping_needs_a_reason(annotator, send, store):
    place = here(annotator)
    bare = send(annotator, f"{place}/skip", **{**ENTERED, "skip_text": "no idea"})
    assert bare.status_code == 422 and "B and C say the same." in bare.text and "no idea" in bare.text
    done = send(annotator, f"{place}/skip", version="0", skip_reason="expertise", skip_text="quantum")
    assert done.headers["location"] == "/?done=skipped" and here(annotator) != place
    assert not list(rows(store, too_fast=True))
    assert "expertise: quantum" in send(annotator, place, **ENTERED).text  # stale: it says what is kept


def test_undo_and_the_last_items(annotator, send, store, ada):
    first = here(annotator)
    send(annotator, first, **ENTERED)
    second_place = here(annotator)
    send(annotator, second_place, **ENTERED)
    page = annotator.get("/recent").text
    assert page.index(second_place) < page.index(first)
    assert send(annotator, "/undo").headers["location"] == f"{second_place}?done=undone"
    assert len(list(rows(store, too_fast=True))) == 1
    number = first.rpartition("/")[2]
    assert send(annotator, "/undo", assignment=number).headers["location"] == f"{first}?done=undone"
    assert "B and C say the same." in annotator.get(first).text
    assert judgements.recent(store, ada.id)[0].state in ("draft", "submitted", "skipped", "leased")


def test_the_list_opens_what_was_ranked_again(annotator, send, store):
    place = here(annotator)
    send(annotator, place, **ENTERED)
    page = annotator.get("/items").text
    assert "You ranked 1 of 5 items" in page and page.count("Not opened yet") == 4 and f'href="{place}"' in page
    assert "B and C say the same." in annotator.get(place).text
    send(annotator, place, **{**ENTERED, "version": "1", "comment": "on second thoughts"})
    assert [row["comment"] for row in rows(store, too_fast=True)] == ["on second thoughts"]
    assert place not in annotator.get("/items?show=unranked").text
    assert annotator.get("/items?show=all&page=99999999999999999999").status_code == 200
    assert annotator.get("/items?show=other").status_code == 404


def test_ratings_are_there_where_the_project_wants_them(annotator, send, store):
    place = here(annotator)
    assert 'name="helpful.A"' in annotator.get(place).text
    change_settings(store, ratings=False)
    page = annotator.get(place).text
    assert "helpful" not in page.partition("<form")[2].partition('id="help"')[0] and 'name="rank.A"' in page
    assert send(annotator, place, **{**RANKS, "version": "0", "action": "submit"}).status_code == 303


def test_nothing_left(annotator, send):
    for _ in range(5):
        send(annotator, here(annotator), **ENTERED)
    page = annotator.get("/")
    assert page.status_code == 200 and "Nothing to rank" in page.text


def test_another_ones_item_is_not_there(annotator, store, app, enter, send):
    accounts.add_annotator(store, "Bo", "correct horse battery")
    other = TestClient(app, base_url="http://127.0.0.1")
    enter(other, "Bo")
    theirs = here(other)
    assert annotator.get(theirs).status_code == 404 and send(annotator, theirs, **ENTERED).status_code == 404
    assert annotator.get("/items/4711").status_code == 404 and annotator.get("/items/x").status_code == 404


def test_no_annotator_learns_where_an_answer_came_from(annotator, send):
    place = here(annotator)
    send(annotator, place, **{**ENTERED, "action": "save"})
    number = place.rpartition("/")[2]
    paths = ("/", place, "/items", "/recent", "/help", "/api/next", f"/api/items/{number}", "/api/progress")
    answers = [annotator.get(path) for path in paths]
    answers.append(send(annotator, place, **ENTERED | {"version": "77"}))
    for answer in answers:
        seen = answer.content + repr(answer.headers.raw).encode()
        assert not re.search(rb"SECRET|0\.7317|4000\d|gold|repeat|checkpoint", seen), answer.url


def test_the_language_is_kept(annotator, send):
    answer = send(annotator, "/language", language="ar", back="/help")
    assert answer.headers["location"] == "/help"
    assert '<html lang="ar" dir="rtl">' in annotator.get("/help").text
    for back in ("//evil.example", "/\\evil.example", "https://evil.example", "/\nx"):
        assert send(annotator, "/language", language="en", back=back).headers["location"] == "/"
    assert send(annotator, "/language", language="../x").status_code == 400
