"""Projects on SQLite, and the same on a private PostgreSQL cluster where its programs are installed (marked slow)."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from sqlalchemy import create_engine, text

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.engine import open_store
from lit_llm.feedback.store.projects import NewCandidate, NewItem, ProjectSettings, add_items, create_project
from lit_llm.records import Message

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
_number = itertools.count()


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(accounts, "_hasher", cheap)
    monkeypatch.setattr(accounts, "_NOBODY", cheap.hash("nobody's"))


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL server of one's own: in a temporary folder, over a socket there, under a user who is not root."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    owner = pwd.getpwuid(os.getuid()).pw_name
    switch = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        owner, switch = nobody.pw_name, {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    bin_folder, data = BINARIES[-1].parent, folder / "data"

    def run(*command):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, **switch)
        assert done.returncode == 0, done.stderr

    run(bin_folder / "initdb", "-D", data, "-U", owner, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
    options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=60"
    run(bin_folder / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    yield lambda database: f"postgresql://{owner}@/{database}?host={folder}"
    run(bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def new_place(request, tmp_path):
    """new_place() -> where a new project's database can be made."""
    if request.param == "sqlite":
        return lambda: tmp_path / f"rankings-{next(_number)}.db"
    url = request.getfixturevalue("cluster")

    def made():
        name = f"project_{next(_number)}"
        administration = url("postgres").replace("postgresql:", "postgresql+psycopg:")
        server = create_engine(administration, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        server.dispose()
        return url(name)

    return made


@pytest.fixture
def place(new_place):
    """Where the project of ``make`` is."""
    return new_place()


@pytest.fixture
def clock():
    """A clock that stands still until the test moves it."""
    return SimpleNamespace(time=1_000_000.0)


@pytest.fixture
def make(place, clock):
    """make(items=3, k=4, people=2, at=None, **settings) -> the store and its annotators' numbers."""
    opened = []

    def made(items=3, k=4, people=2, at=None, **settings):
        store = open_store(at or place, create=True, clock=lambda: clock.time)
        opened.append(store)
        settings = {"gold_share": 0.0, "repeat_share": 0.0, "min_seconds": 0.0, "lease_minutes": 10.0} | settings
        create_project(store, ProjectSettings(**settings))
        add_items(store, [item(f"question {n}", k) for n in range(items)])
        return store, [accounts.add_annotator(store, f"person {n}", "password").id for n in range(people)]

    yield made
    for store in opened:
        store.close()


def item(question, k=4, **more):
    candidates = [NewCandidate(f"{question} answer {i}", model=f"model-{i}") for i in range(k)]
    return NewItem([Message("user", question)], candidates, **more)
