"""A project of a few items, its app in process, and a real server with a real browser."""

import shutil
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("sqlalchemy")

import uvicorn
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.projects import NewCandidate, NewItem, ProjectSettings, add_items, create_project
from lit_llm.feedback.web.application import create_app
from lit_llm.records import Message

PASSWORD = "correct horse battery"
MODELS = ("SECRET-model-alpha", "SECRET-model-beta", "SECRET-model-gamma", "SECRET-model-delta")
SECRET = b"a secret of the tests, 32 bytes."


def new_item(prompt, answers, **values):
    candidates = [
        NewCandidate(text, MODELS[n % 4], f"SECRET-hash-{n}", {"temperature": 0.7317}, 40_000 + n, "SECRET-reason")
        for n, text in enumerate(answers)
    ]
    return NewItem((Message("user", prompt),), candidates, **values)


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch):
    """argon2 is slow on purpose; here it hashes the same way, with less work."""
    hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(accounts, "_hasher", hasher)
    monkeypatch.setattr(accounts, "_NOBODY", hasher.hash("nobody"))


@pytest.fixture
def items():
    return [
        new_item(f"Question {n}: what is a heap?", [f"Answer {letter} to {n}." for letter in "pqrs"]) for n in range(5)
    ]


@pytest.fixture
def store(tmp_path, items):
    found = open_store(tmp_path / "project.db", create=True)
    settings = ProjectSettings(title="Heaps", gold_share=0, repeat_share=0, min_seconds=0, lease_minutes=30)
    create_project(found, settings)
    add_items(found, items)
    yield found
    found.close()


@pytest.fixture
def with_items(store):
    """Adds an item that comes before all the others."""

    def add(prompt, answers):
        add_items(store, [new_item(prompt, answers, priority=99.0)])

    return add


@pytest.fixture
def ada(store):
    return accounts.add_annotator(store, "Ada", PASSWORD)


@pytest.fixture
def admin(store):
    return accounts.add_annotator(store, "Root", PASSWORD, role="admin")


@pytest.fixture
def app(store):
    return create_app(store, SECRET)


@pytest.fixture
def client(app):
    return TestClient(app, base_url="http://127.0.0.1")


def token_in(html):
    return html.split('name="csrf" value="')[1].split('"')[0]


@pytest.fixture
def enter():
    """Logs in through the form, as a browser does."""

    def log_in(client, name, password=PASSWORD):
        token = token_in(client.get("/login").text)
        return client.post("/login", data={"name": name, "password": password, "csrf": token})

    return log_in


@pytest.fixture
def send():
    """Sends a form with the token of the session; returns the response without following it."""

    def post(client, path, **fields):
        token = token_in(client.get("/help").text)
        return client.post(path, data={"csrf": token, **fields}, follow_redirects=False)

    return post


@pytest.fixture
def annotator(client, ada, enter):  # noqa: ARG001
    assert enter(client, "Ada").status_code == 200
    return client


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def site(app):
    """The address of a real server of ``app``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
