"""A corpus in a local S3 server that fails, stalls and cuts its answers is the corpus on the disk."""

import threading
import time

import pytest
from werkzeug.serving import make_server

from lit_llm.data import sources, store_requests, stores
from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.errors import UserError
from tests.data.shards.texts import lines_of

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


class Faulty:
    """moto's application; requests of ranges meet the next of ``faults`` in place of an answer."""

    def __init__(self):
        self.inner = server.DomainDispatcherApplication(server.create_backend_app)
        self.faults, self.met, self.ranges = [], [], 0

    def __call__(self, environ, start_response):
        is_range = environ["REQUEST_METHOD"] == "GET" and "HTTP_RANGE" in environ
        fault = self.faults.pop(0) if is_range and self.faults else ""
        self.met += [fault] if fault else []
        self.ranges += is_range
        if fault == "503":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if fault == "stall":
            time.sleep(1.5)
        body = self.inner(environ, start_response)
        if fault == "cut":
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]  # fewer bytes than the headers say
        return body


@pytest.fixture
def bucket(monkeypatch):
    """put(name, bytes) into a bucket, and the faults to plant."""
    app = Faulty()
    serving = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{serving.server_port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url, "AWS_ENDPOINT_URL": url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store_requests, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(store_requests, "STALL", 1.0)
    monkeypatch.setattr(stores, "BLOCK", 2000)
    monkeypatch.setattr(stores._State, "known", {})
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem()
    if not client.exists("texts"):  # moto keeps it from test to test
        client.mkdir("texts")
    app.put = lambda name, data: client.pipe_file(f"texts/{name}", data)
    yield app
    s3fs.S3FileSystem.clear_instance_cache()
    serving.shutdown()


@pytest.mark.parametrize("path", ["s3://texts/corpus", "s3://texts/corpus/*.jsonl"])
def test_a_folder_and_a_glob_with_faults(bucket, tokenizer, tmp_path, path):
    here = tmp_path / "corpus"
    here.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (here / name).write_bytes(lines_of(80, begin=1000 * ord(name[0])))
        bucket.put(f"corpus/{name}", (here / name).read_bytes())
    bucket.put("corpus/README.md", b"Texts.")
    bucket.put("corpus/.hidden.jsonl", b"{")
    bucket.faults = ["503", "cut", "", "stall", "cut"]
    options = {"cache_dir": str(tmp_path / "cache"), "max_length": 16, "stream_above": 0, "prepare_workers": 2}
    remote, local = (RawText(TextOptions(path=one, **options), tokenizer=tokenizer) for one in (path, str(here)))
    assert remote.fingerprint() == local.fingerprint()
    assert remote.counts()["used"] == local.counts()["used"] == 160
    assert remote.files() == [f"s3://texts/corpus/{name}.jsonl" for name in "ab"]
    assert sorted(bucket.met) == ["503", "cut", "cut", "stall"]
    blocks = sum(-(-(here / name).stat().st_size // 2000) for name in ("a.jsonl", "b.jsonl"))
    assert bucket.ranges == blocks + 4, "each is asked for once more, and nothing else"


def test_what_is_not_there_or_never_comes_is_one_line(bucket, tmp_path):
    with pytest.raises(UserError, match=r"s3://texts/none.jsonl: no such file in the store"):
        sources.resolve("s3://texts/none.jsonl", tmp_path)
    bucket.put("a.jsonl", lines_of(50))
    bucket.faults = ["cut"] * 200
    sources.resolve("s3://texts/a.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"s3://texts/a.jsonl: cannot be fetched, 6 times in a row \(") as raised:
        stores.on_disk("s3://texts/a.jsonl")
    assert "\n" not in str(raised.value)
