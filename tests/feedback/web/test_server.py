"""Serving: the secret that outlives a restart, the address that is taken, and what a browser may call us."""

import socket
import threading
import time

import httpx
import pytest
import uvicorn

from lit_llm.errors import UserError
from lit_llm.feedback.web.server import kept_secret, serve


def test_the_secret_is_kept_beside_the_project(store, tmp_path):
    secret = kept_secret(store.place)
    assert len(secret) == 32 and kept_secret(store.place) == secret
    file = tmp_path / "project.db.secret"
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"short")
    with pytest.raises(UserError, match=r"project\.db\.secret: has 5 bytes"):
        kept_secret(store.place)


def test_a_secret_that_cannot_be_kept_is_a_line(store, tmp_path):
    (tmp_path / "project.db.secret").mkdir()
    with pytest.raises(UserError, match=r"project\.db\.secret: cannot be written and read"):
        kept_secret(store.place)


def test_a_database_elsewhere_has_a_secret_for_each_run():
    assert kept_secret("postgresql://db/x") != kept_secret("postgresql://db/x")


def test_a_port_that_is_taken(store):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: cannot listen"):
            serve(store, port=port)
    with pytest.raises(UserError, match="port=70000"):
        serve(store, port=70000)


def test_it_serves_at_this_machine_alone(store, monkeypatch, capsys):
    servers, bound = [], []
    started = uvicorn.Server.startup

    async def startup(self, sockets=None):
        servers.append(self)
        bound.extend(listener.getsockname()[0] for listener in sockets)
        await started(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    thread = threading.Thread(target=serve, args=(store,), kwargs={"port": 0}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not (servers and servers[0].started) and time.monotonic() < deadline:
        time.sleep(0.01)
    address = capsys.readouterr().out.split()[2]
    answer = httpx.get(f"{address}login", timeout=120)
    servers[0].should_exit = True
    thread.join(120)
    assert bound == ["127.0.0.1"]  # not 0.0.0.0, whatever the address that is printed
    assert address.startswith("http://127.0.0.1:") and answer.status_code == 200
    assert "server" not in answer.headers and not thread.is_alive()
