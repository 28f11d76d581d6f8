"""Files of a web server that fails, stalls and cuts its answers arrive whole; what never comes is named in one line."""

import gzip
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_llm.data import sources, store_requests, stores
from lit_llm.data.file_rows import read_rows
from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.data.shards import order, portions
from lit_llm.errors import UserError
from lit_llm.runtime.run_lock import RunLock
from lit_llm.text.bpe import train_bpe
from tests.data.shards.texts import lines_of

pytest.importorskip("aiohttp")


class Server(ThreadingHTTPServer):
    """Gives ``files``; every request of a range takes the next of ``faults``, which is done in place of an answer."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.ranges: list[tuple[str, str]] = []
        self.has_ranges = self.says_length = True
        self.refuses = 0  # the status of every answer
        self.tags = {"ETag": lambda data: f'"{hash(data)}"'}
        self.most, self.bytes = 10**9, 0  # what a line carries in the time that anybody waits; what was sent
        self.closes = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        data = self.server.files.get(self.path.lstrip("/"))
        if data is None:
            self.send_error(404)
            return
        if self.server.refuses:
            self.send_error(self.server.refuses)
            return
        asked = self.headers.get("Range")
        fault = self.server.faults.pop(0) if body and asked and self.server.faults else ""
        if body and asked:
            self.server.ranges.append((self.path, asked))
        if fault == "503":
            self.send_error(503)
            return
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        length = (int(last) if last else len(data)) - int(first)
        if fault == "stall" or (body and length > self.server.most):
            self.server.closes.wait(100)  # longer than anybody waits for it
        if asked and self.server.has_ranges:
            part = data[int(first) : int(last) + 1 if last else len(data)]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        else:
            part = data
            self.send_response(200)
        if self.server.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.server.says_length:
            self.send_header("Content-Length", str(len(part)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        for name, tag in self.server.tags.items():
            self.send_header(name, tag(data))
        self.end_headers()
        if body:
            self.server.bytes += len(part)
            self.wfile.write(part[: len(part) // 2] if fault == "cut" else part)
            if fault == "cut":
                self.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(store_requests, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(store_requests, "STALL", 2.0)  # a busy machine may take a second for any answer
    monkeypatch.setattr(stores, "BLOCK", 1000)
    monkeypatch.setattr(stores._State, "known", {})
    monkeypatch.setattr(stores._State, "told", set())
    stores.use(tmp_path / "cache")
    serving = Server()
    yield serving
    serving.closes.set()
    serving.shutdown()


def test_what_fails_is_asked_for_again_from_where_it_was_and_kept(server):
    server.files["a.jsonl"] = data = lines_of(120)
    server.faults = ["", "503", "cut", "stall", "", "503"]
    url = server.url("a.jsonl")
    assert Path(stores.on_disk(url)).read_bytes() == data
    asked = [int(said.removeprefix("bytes=").partition("-")[0]) for _, said in server.ranges]
    assert sorted(set(asked)) == list(range(0, len(data), 1000)), "what was good is not asked for again"
    assert len(asked) == len(set(asked)) + 4
    before = len(server.ranges)
    assert Path(stores.on_disk(url)).read_bytes() == data and len(server.ranges) == before
    found = [row.value["text"] for row in read_rows([url])]
    assert found == [json.loads(line)["text"] for line in data.splitlines()]


def test_a_file_has_its_copy_where_it_was_found_also_when_the_next_run_keeps_its_own_elsewhere(server, tmp_path):
    server.files["a.jsonl"] = lines_of(20)
    url = server.url("a.jsonl")
    before = stores.of(url)
    stores.use(tmp_path / "other")
    assert before.copy.is_relative_to(tmp_path / "cache") and stores.of(url) == before
    assert Path(stores.on_disk(url)).is_relative_to(tmp_path / "other") and not before.copy.exists()


def test_a_fetch_that_was_cut_short_goes_on(server):
    server.files["a.jsonl"] = data = lines_of(60)
    remote = stores.of(server.url("a.jsonl"))
    remote.folder.mkdir(parents=True)
    (remote.folder / ".part").write_bytes(data[:2500])
    assert Path(stores.on_disk(remote.url)).read_bytes() == data
    assert server.ranges[0][1].startswith("bytes=2500-")
    remote.copy.rename(remote.folder / ".part")
    with (remote.folder / ".part").open("ab") as file:
        file.write(b"and more")  # of what nobody knows
    assert Path(stores.on_disk(remote.url)).read_bytes() == data


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (["503"] * 40, r"a.jsonl: cannot be fetched, 6 times in a row \(.*503"),
        (["cut"] * 40, r"a.jsonl: cannot be fetched, 6 times in a row \("),
        (["stall"] * 40, r"a.jsonl: cannot be fetched, 6 times in a row \(TimeoutError: no answer for 0.2 seconds"),
    ],
)
def test_what_never_comes_is_named_in_one_line(server, faults, said, monkeypatch):
    if faults[0] == "stall":
        monkeypatch.setattr(store_requests, "STALL", 0.2)
    server.files["a.jsonl"] = lines_of(60)
    server.faults = faults
    with pytest.raises(UserError, match=said) as raised:
        list(read_rows([server.url("a.jsonl")]))
    assert "\n" not in str(raised.value)


def test_what_is_not_there_or_has_no_length_is_named(server, monkeypatch):
    with pytest.raises(UserError, match=r"b.jsonl: no such file in the store"):
        sources.resolve(server.url("b.jsonl"))
    server.says_length = False
    server.files["c.jsonl"] = lines_of(3)
    with pytest.raises(UserError, match=r"c.jsonl: the server does not say how long it is"):
        sources.resolve(server.url("c.jsonl"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"s3://b/a.jsonl: reading s3:// needs s3fs; pip install 'lit-llm\[s3\]'"):
        sources.resolve("s3://b/a.jsonl")


def test_what_is_there_and_is_not_given_is_not_called_missing(server, caplog):
    server.files["a.jsonl"] = lines_of(3)
    url = server.url("a.jsonl")
    for status in (401, 403):
        server.refuses = status
        with pytest.raises(UserError, match=rf"a.jsonl: cannot be read \(.*{status}.*\); .* who may read it$"):
            sources.resolve(url)
    assert not caplog.records, "it is said at once"
    server.refuses = 503
    with pytest.raises(UserError, match=r"a.jsonl: cannot be fetched, 6 times in a row \(.*503"):
        sources.resolve(url)
    caplog.clear()
    with pytest.raises(UserError, match=r"a.jsonl: no secure connection \(.*SSL.*\); check that the server"):
        sources.resolve(url.replace("http:", "https:"))
    assert not caplog.records
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(UserError, match=rf"x.jsonl: cannot be fetched, 6 times in a row \(.*{port}"):
            sources.resolve(f"http://127.0.0.1:{port}/x.jsonl")
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == ["trying again in 0.01 s"] * 5


def test_a_server_without_ranges_and_a_file_that_changed(server):
    server.has_ranges = False
    server.files["a.jsonl"] = lines_of(60)
    url = server.url("a.jsonl")
    assert Path(stores.on_disk(url)).read_bytes() == lines_of(60)
    stores._State.known.clear()
    server.files["a.jsonl"] = lines_of(60, begin=100)
    assert Path(stores.on_disk(url)).read_bytes() == lines_of(60, begin=100)


def test_of_a_server_without_ranges_a_file_comes_once_and_not_for_each_block(server, monkeypatch):
    """As of Python's own: what is asked for a block at a time would be sent whole each time, and held whole."""
    server.has_ranges = False
    server.files["a.jsonl"] = data = lines_of(300)
    held = []
    inner = stores._range
    monkeypatch.setattr(stores, "_range", lambda *given: held.append(inner(*given)) or held[-1])
    assert Path(stores.on_disk(server.url("a.jsonl"))).read_bytes() == data and len(data) > 5 * stores.BLOCK
    assert server.bytes <= 3 * len(data) and max(len(one or b"") for one in held) <= stores.BLOCK


def test_a_file_of_a_server_without_ranges_that_is_cut_comes_again_from_its_beginning(server):
    server.has_ranges = False
    server.files["a.jsonl"] = data = lines_of(60)
    url, inner = server.url("a.jsonl"), Handler._answer
    cut = []

    def answer(handler, body):
        if body and not handler.headers.get("Range") and len(cut) < 2:
            cut.append(0)
            handler.server.says_length = True
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:2500])
            handler.close_connection = True
            return
        inner(handler, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "_answer", answer)
        assert Path(stores.on_disk(url)).read_bytes() == data and len(cut) == 2


def test_over_a_slow_line_less_is_asked_for_at_once(server, monkeypatch):
    monkeypatch.setattr(stores, "LEAST_BLOCK", 100)
    monkeypatch.setattr(store_requests, "STALL", 0.5)
    server.files["a.jsonl"], server.most = lines_of(30), 260
    assert Path(stores.on_disk(server.url("a.jsonl"))).read_bytes() == lines_of(30)


@pytest.mark.parametrize("tag", ["Last-Modified", "Content-MD5"])
def test_a_file_of_the_same_length_that_changed_is_told_by_what_the_server_says(server, tag):
    server.tags = {tag: lambda data: f"made {hash(data)}"}
    url, first = server.url("a.jsonl"), lines_of(10)
    for data in (first, first[:-9] + first[-9:].replace(b"m", b"n")):
        server.files["a.jsonl"] = data
        stores._State.known.clear()  # another run
        assert Path(stores.on_disk(url)).read_bytes() == data


def test_a_server_that_does_not_tell_is_told_of_and_its_halves_are_not_joined(server, caplog):
    server.tags = {}
    server.files["a.jsonl"] = lines_of(60)
    url = server.url("a.jsonl")
    remote = stores.of(url)
    remote.folder.mkdir(parents=True)
    (remote.folder / ".part").write_bytes(lines_of(60, begin=500)[:1500])  # of what the file was before
    assert Path(stores.on_disk(url)).read_bytes() == lines_of(60) and "does not tell" not in caplog.text
    stores.on_disk(url)
    assert "does not tell" not in caplog.text, "it is this run's own"
    stores._State.told.clear()
    for _ in range(2):
        stores.on_disk(url)
    assert caplog.text.count("a.jsonl: its server does not tell when it changes") == 1


def test_a_packed_file_behind_a_question_mark_is_unpacked(server):
    server.files["a.jsonl.gz?download=true"] = gzip.compress(lines_of(20))
    found = [row.value["text"] for row in read_rows([server.url("a.jsonl.gz?download=true")])]
    assert found == [json.loads(line)["text"] for line in lines_of(20).splitlines()]


def test_what_signs_a_url_is_in_no_message(server, caplog):
    server.files["a.jsonl?token=abcdef&X-Amz-Signature=012345"] = lines_of(60)
    server.faults = ["503", "", "503"]
    url = server.url("a.jsonl?token=abcdef&X-Amz-Signature=012345")
    assert Path(stores.on_disk(url)).read_bytes() == lines_of(60)
    server.faults = ["503"] * 40
    server.files["b.jsonl?token=abcdef"] = lines_of(60)
    with pytest.raises(UserError, match=r"b.jsonl\?\.\.\.: cannot be fetched") as raised:
        stores.on_disk(server.url("b.jsonl?token=abcdef"))
    with pytest.raises(UserError, match=r"no such file") as absent:
        stores.of(server.url("c.jsonl?token=abcdef").replace("http://", "http://user:abcdef@"))
    said = f"{caplog.text} {raised.value} {absent.value}"
    assert "503" in said and "abcdef" not in said and "012345" not in said


def test_what_was_fetched_of_files_that_nobody_wants_any_more_goes_too(server, monkeypatch, tmp_path):
    server.files["a.jsonl"] = data = lines_of(30)
    monkeypatch.setattr(stores, "MOST", len(data) + 2000)
    old, at_work = (tmp_path / "cache/remote" / name for name in ("old", "at_work"))
    for folder in (old, at_work):
        folder.mkdir(parents=True)
        (folder / ".part").write_bytes(bytes(1500))
    with RunLock(at_work):
        stores.on_disk(server.url("a.jsonl"))
    assert not (old / ".part").exists() and (at_work / ".part").exists()


def test_copies_have_a_bound_and_those_used_last_stay(server, monkeypatch, tmp_path):
    sizes = {}
    for name in "abc":
        server.files[f"{name}.jsonl"] = lines_of(30, begin=ord(name))
        sizes[name] = len(server.files[f"{name}.jsonl"])
    monkeypatch.setattr(stores, "MOST", sizes["a"] + sizes["b"] + 10)
    for name in "aba":
        stores.on_disk(server.url(f"{name}.jsonl"))
        time.sleep(0.02)
    stores.on_disk(server.url("c.jsonl"))
    assert sorted(copy.name for copy in (tmp_path / "cache/remote").glob("*/[!.]*")) == ["a.jsonl", "c.jsonl"]


def test_shards_that_were_prepared_elsewhere_are_read_from_there(server, tokenizer, tmp_path, monkeypatch):
    for module, name in ((portions, "PORTION"), (order, "WINDOW")):
        monkeypatch.setattr(module, name, {"PORTION": 1500, "WINDOW": 2}[name])
    (tmp_path / "a.jsonl").write_bytes(lines_of(200) + lines_of(20))
    shared = {"max_length": 16, "prepare_workers": 1}
    made = RawText(
        TextOptions(path=str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path / "made"), stream_above=0, **shared),
        tokenizer=tokenizer,
    )
    made.setup()
    tokens = tmp_path / "made/tokens"
    (told,) = tokens.rglob("prepared.json")
    for file in (file for file in tokens.rglob("*") if file.is_file()):
        server.files[str(file.relative_to(tokens))] = file.read_bytes()
    server.faults = ["503", "", "cut", "", "", "503", "stall"]
    url = server.url(told.relative_to(tokens))
    stores.use(tmp_path / "cache")
    whole = [batch.input_ids.tolist() for batch in made.train_dataloader()]
    for path, workers in ((url, 0), (url, 2), (str(told), 0), (str(told.parent), 0)):
        data = RawText(
            TextOptions(path=path, cache_dir=str(tmp_path / "cache"), num_workers=workers, **shared),
            tokenizer=tokenizer,
        )
        assert [batch.input_ids.tolist() for batch in data.train_dataloader()] == whole
        assert data.heldout() == made.heldout() and data.counts() == made.counts()
        assert data.overview().as_dict() == made.overview().as_dict() and data.train_tokens == made.train_tokens
        assert data.fingerprint() == made.fingerprint() and data.samples(1) == made.samples(1)
    other = train_bpe(["another one"] * 9, vocab_size=300, show_progress=False)
    with pytest.raises(UserError, match=r"prepared.json: was prepared with another tokenizer"):
        RawText(TextOptions(path=url, cache_dir=str(tmp_path / "cache"), **shared), tokenizer=other).setup()
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(UserError, match=r"prepared.json: is no prepared corpus \('version'\)"):
        RawText(TextOptions(path=str(tmp_path / "prepared.json"), **shared), tokenizer=tokenizer).setup()


@pytest.mark.parametrize("stream_above", [0, 256])
def test_a_run_s_data_from_a_server_is_what_it_is_from_the_disk(server, tokenizer, tmp_path, stream_above):
    for name in ("a.jsonl", "b.jsonl"):
        server.files[name] = lines_of(80, begin=1000 * ord(name[0]))
        (tmp_path / name).write_bytes(server.files[name])
    server.faults = ["503", "cut", "", "503"]
    there = [server.url(name) for name in ("a.jsonl", "b.jsonl")]
    here = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    options = {"cache_dir": str(tmp_path / "cache"), "max_length": 16, "stream_above": stream_above}
    remote, local = (
        RawText(TextOptions(path=path, prepare_workers=2, **options), tokenizer=tokenizer) for path in (there, here)
    )
    assert remote.fingerprint() == local.fingerprint() and remote.counts() == local.counts()
    assert [b.input_ids.tolist() for b in remote.train_dataloader()] == [
        b.input_ids.tolist() for b in local.train_dataloader()
    ]
    assert remote.files() == there and remote.heldout()[0].items[0].source.startswith("http://")
