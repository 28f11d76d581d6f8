"""The hub by a server of this machine that answers as it does: what is fetched, what is refused, and in which words."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_llm.errors import UserError
from lit_llm.lineage.lineage import base_models
from lit_llm.model_sources import folders, hub
from tests.small_gguf import write

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = "modeling_own.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("hub")
    folder = folders.folder_of(write(place / "small.gguf", "qwen2"), place)
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "source.json"}
    return found | {
        CODE: b"raise SystemExit",
        "pytorch_model.bin": b"x",
        "README.md": b"---\nlicense: apache-2.0\n---\n",
    }


@pytest.fixture(scope="module")
def server(files):
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            asked.append(self.path)
            path = self.path.split("?")[0]
            if "/gated" in path:
                return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            if "own/model" not in path:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            if path.startswith("/api/models/own/model"):
                revision = path.partition("/revision/")[2] or "main"
                if revision not in ("main", COMMIT):
                    return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                if "/tree/" in path:
                    tree = [
                        {"type": "file", "path": n, "size": len(d), "oid": _digest(d)[:40]} for n, d in files.items()
                    ]
                    return self.send(200, json.dumps(tree).encode(), {"X-Repo-Commit": COMMIT}, body)
                about = {"id": "own/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.send(200, json.dumps(about).encode(), {}, body)
            data = files.get(path.rpartition("/")[2])
            if data is None:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return self.send(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(data)}"'}, body)

        def send(self, status, data, headers, body):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    found = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}", asked
    found.shutdown()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def resolve(name: str, endpoint: str, home: Path, **more: str) -> tuple[int, str]:
    """In a process: the hub's client reads its variables when it is imported."""
    code = (
        "import sys; from lit_llm.errors import UserError; from lit_llm.model_sources.folders import folder_of\n"
        "try: print(folder_of(sys.argv[1]))\nexcept UserError as error: print(error); sys.exit(2)"
    )
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "3"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, timeout=120, check=False,
        env={**environment, **given, "HF_HUB_ETAG_TIMEOUT": "3", **more},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.strip()


def test_weights_and_tokenizer_are_fetched_and_code_never(server, files, tmp_path):
    endpoint, asked = server
    status, told = resolve("hub:own/model", endpoint, tmp_path)
    folder = Path(told)
    assert status == 0 and folder.name == COMMIT, told
    assert {file.name for file in folder.iterdir()} == set(files) - {CODE, "pytorch_model.bin"}
    assert not [path for path in asked if CODE in path or "pytorch_model" in path]
    from lit_llm.backbone.huggingface import load_language_model

    assert load_language_model(folder).config.family == "qwen2"
    (base,) = base_models(folder)
    assert base == {
        "name": "own/model", "license": "apache-2.0", "data": "unknown", "source": "hub:own/model", "revision": COMMIT
    }  # fmt: skip
    assert resolve(f"hub:own/model@{COMMIT}", "http://127.0.0.1:9", tmp_path) == (0, told), (
        "what is there needs no network"
    )
    assert resolve("hub:own/model", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1") == (0, told)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:nobody/nothing", "the hub has no such model, or it is private: log in"),
        ("hub:own/gated", "is given only to those who asked"),
        ("hub:own/model@v9", "the hub's own/model has no revision v9; give a branch, a tag or a commit"),
        ("hub:own", "write hub:OWNER/NAME"),
        ("hub:../../etc", "write hub:OWNER/NAME"),
    ],
)
def test_what_the_hub_refuses_is_one_line(name, message, server, tmp_path):
    status, told = resolve(name, server[0], tmp_path)
    assert status == 2 and message in told and "\n" not in told and told.startswith(name)


def test_without_a_network_and_a_copy_it_says_so_and_what_brings_that_very_revision(tmp_path):
    for name, offline in (("own/model", {}), ("own/model@v1", {"HF_HUB_OFFLINE": "1"})):
        status, told = resolve(f"hub:{name}", "http://127.0.0.1:9", tmp_path, **offline)
        assert status == 2 and "the hub is out of reach" in told and "\n" not in told
        assert told.endswith(f"hf download {name.replace('@', ' --revision ')}")


def test_a_repository_without_safetensors_is_told(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "_fetched", lambda *_: str(tmp_path))
    with pytest.raises(UserError, match=r"hub:a/b: has no safetensors"):
        hub.folder_of("hub:a/b")
