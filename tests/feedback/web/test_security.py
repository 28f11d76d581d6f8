"""What stands between the network and the routes."""

import re
import time

import pytest
from itsdangerous import timed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from lit_llm.feedback.store import accounts
from lit_llm.feedback.web.application import create_app
from lit_llm.feedback.web.security import Guard
from lit_llm.feedback.web.sessions import Session, Sessions

SECRET = b"s" * 32


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def guarded():
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
    return TestClient(Guard(app, body_limit=1000), base_url="http://localhost")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:81", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_served(guarded, host):
    assert guarded.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""])
def test_another_name_for_this_machine_is_refused(guarded, host):
    assert guarded.get("/", headers={"host": host}).status_code == 400


def test_a_body_over_the_limit_never_reaches_a_route(guarded):
    def parts(count):
        yield from (b"x" * 100 for _ in range(count))

    assert guarded.post("/", content=b"x" * 1000).text == "1000"
    assert guarded.post("/", content=b"x" * 1001).status_code == 413
    assert guarded.post("/", content=parts(10)).text == "1000"  # chunked: no length is claimed
    assert guarded.post("/", content=parts(11)).status_code == 413


def asked(cookie, secret=SECRET):
    """A request with that cookie, under the name that a project of this secret gives it."""
    return Request({"type": "http", "headers": [(b"cookie", f"{Sessions(secret).cookie}={cookie}".encode())]})


def test_a_cookie_is_believed_only_with_its_signature():
    sessions, response = Sessions(SECRET), Response()
    session = Session().logged_in(7, 2, "ar")
    sessions.write(response, session)
    header = response.headers["set-cookie"]
    value = header.partition("=")[2].partition(";")[0]
    assert sessions.read(asked(value)) == session
    assert "HttpOnly" in header and "SameSite=lax" in header and "Secure" not in header
    assert Sessions(b"t" * 32).read(asked(value, b"t" * 32)) is None
    middle = len(value) // 3
    forged = value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :]
    assert sessions.read(asked(forged)) is None


def test_a_cookie_ends_with_its_time(monkeypatch):
    sessions, response, now = Sessions(SECRET), Response(), time.time()
    sessions.write(response, Session().logged_in(7, 2, "ar"))
    header = response.headers["set-cookie"]
    assert f"Max-Age={14 * 24 * 3600};" in header
    value = header.partition("=")[2].partition(";")[0]
    for days, good in ((13.9, True), (14.1, False)):
        monkeypatch.setattr(timed.time, "time", lambda days=days: now + days * 86400)
        assert (sessions.read(asked(value)) is not None) == good


def test_two_projects_side_by_side_do_not_end_each_other_s_sessions():
    assert Sessions(b"t" * 32).cookie != Sessions(SECRET).cookie == Sessions(SECRET).cookie
    assert SECRET.hex()[:8] not in Sessions(SECRET).cookie


def test_with_https_the_cookie_is_secure_and_bound_to_the_host():
    response = Response()
    Sessions(SECRET, https=True).write(response, Session())
    assert response.headers["set-cookie"].startswith("__Host-lit_llm-") and "Secure" in response.headers["set-cookie"]


def test_a_token_belongs_to_one_session():
    sessions, one, two = Sessions(SECRET), Session(), Session()
    assert sessions.token_is_right(one, sessions.token(one))
    assert not sessions.token_is_right(two, sessions.token(one))
    assert not sessions.token_is_right(one, "")
    assert one.logged_in(1, 1, "en").nonce != one.nonce


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        Sessions(b"short")


def test_every_write_needs_the_token(annotator, app):
    """Found by asking the application for its routes: a new one cannot be forgotten here."""
    paths = [(m, r.path) for r in routes_of(app) for m in getattr(r, "methods", None) or () if m not in ("GET", "HEAD")]
    assert len(paths) >= 12
    for method, path in paths:
        where = path.replace("{assignment_id}", "1").replace("{task_id}", "1").replace("{annotator_id}", "1")
        for kind in ("application/x-www-form-urlencoded", "application/json"):
            headers = {"content-type": kind, "x-csrf-token": "0" * 64, "if-match": '"0"'}
            body = b"{}" if kind.endswith("json") else b"csrf=" + b"0" * 64
            response = annotator.request(method, where, content=body, headers=headers, follow_redirects=False)
            assert response.status_code in (403, 415), (method, path, kind)


def routes_of(app):
    for route in app.routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from inner or [route]


def test_headers_of_every_response(annotator):
    for path in ("/", "/login", "/nowhere", "/api/next", "/api/items/999", "/static/rank.js", "/admin"):
        headers = annotator.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")


def test_a_changed_password_ends_the_session(annotator, store, ada):
    assert annotator.get("/api/progress").status_code == 200
    accounts.set_password(store, ada.id, "another long password")
    assert annotator.get("/api/progress").status_code == 401
    assert annotator.get("/", follow_redirects=False).headers["location"] == "/login"


def test_a_deactivated_account_is_out(annotator, store, ada):
    accounts.deactivate(store, ada.id)
    assert annotator.get("/api/next").status_code == 401


def test_wrong_passwords_are_slowed_down(client, ada, enter):  # noqa: ARG001
    answers = [enter(client, "Ada", f"wrong password {n}") for n in range(12)]
    assert answers[0].status_code == 401
    assert answers[-1].status_code == 429 and int(answers[-1].headers["retry-after"]) >= 1
    assert enter(client, "Ada").status_code == 429  # the right one must wait, too


def test_logging_out(annotator, send):
    assert send(annotator, "/logout").headers["location"] == "/login"
    assert annotator.get("/api/next").status_code == 401


def test_a_copied_cookie_is_dead_after_the_log_out(annotator, app, send):
    thief = TestClient(app, base_url="http://127.0.0.1", cookies=annotator.cookies)
    assert thief.get("/api/progress").status_code == 200
    send(annotator, "/logout")
    assert thief.get("/api/progress").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"origin": "http://127.0.0.1"}, 303),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 303),
        ({"sec-fetch-site": "none"}, 303),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1"}, 403),
    ],
)
def test_a_write_from_another_site_is_refused_even_with_the_token(annotator, headers, status):
    token = re.search('name="csrf" value="([^"]+)"', annotator.get("/help", headers=headers).text)[1]
    form = {"csrf": token, "language": "ar", "back": "/help"}
    answer = annotator.post("/language", data=form, headers=headers, follow_redirects=False)
    assert answer.status_code == status
    assert ('lang="ar"' in annotator.get("/help").text.partition(">")[2][:200]) == (status == 303)


def test_the_host_check_stands_before_the_application(store):
    client = TestClient(create_app(store, SECRET), base_url="http://rank.example")
    assert client.get("/login").status_code == 400
    named = TestClient(create_app(store, SECRET, hosts=("rank.example",)), base_url="http://rank.example")
    assert named.get("/login").status_code == 200
