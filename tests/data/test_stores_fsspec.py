"""Stores of which no server runs here, ``gs://``, ``az://`` and ``hf://``: file systems that answer as theirs do, and
fail as theirs do, under the same protocols."""

import importlib.util
import logging
import sys
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry, known_implementations

from lit_llm.data import sources, store_requests, stores
from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.errors import UserError
from tests.data.shards.texts import lines_of


class Refused(Exception):  # noqa: N818
    """As ``gcsfs.HttpError``, which has a code, Azure's and the hub's errors, which have it in an answer too."""

    def __init__(self, status, inside):
        super().__init__(f"HTTP {status}")
        self.code, self.status_code = ("", "") if inside else (status, status)
        self.response = type("Answer", (), {"status_code": status})() if inside else None


class Store(fsspec.AbstractFileSystem):
    """Files by their path; every request of bytes takes the next of ``faults``, which is done in place of an answer."""

    cachable = False
    files: dict[str, bytes]
    faults: list[str]
    asked: list[tuple[str, int]]

    def _info(self, path):
        data = self.files[path]
        if isinstance(data, Refused):
            raise FileNotFoundError(f"{path} (repository not found)") from data
        if not data:
            raise OSError(f"Forbidden: {path}\nno access")
        return {"name": path, "size": len(data), "type": "file", self.tag: f"of {hash(data)}"}

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path).rstrip("/")
        if path in self.files:
            found = {path: self._info(path)}
        else:
            found = {}
            for name in (name for name in self.files if name.startswith(f"{path}/")):
                first, *rest = name.removeprefix(f"{path}/").split("/")
                place = f"{path}/{first}"
                found[place] = {"name": place, "size": 0, "type": "directory"} if rest else self._info(name)
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def cat_file(self, path, start=None, end=None, **_):
        self.asked.append((path, start))
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("403", "503"):
            raise Refused(int(fault), inside=len(self.asked) % 2)
        if fault == "stall":
            time.sleep(1.5)
        data = self.files[path][start:end]
        return data[: len(data) // 2] if fault == "cut" else data


STORES = {  # by scheme: protocols of its class, what tells versions of a file apart, and the class
    "gs": (("gs", "gcs"), "md5Hash", "gcsfs.GCSFileSystem"),
    "az": (("abfs", "az", "abfss"), "etag", "adlfs.AzureBlobFileSystem"),
    "hf": ("hf", "blob_id", "huggingface_hub.HfFileSystem"),
}


@pytest.fixture(params=STORES)
def store(request, monkeypatch):
    protocol, tag, _ = STORES[request.param]
    members = {"protocol": protocol, "tag": tag, "files": {}, "faults": [], "asked": [], "scheme": request.param}
    made = type("Made", (Store,), members)
    for name in (protocol,) if isinstance(protocol, str) else protocol:
        monkeypatch.setitem(_registry, name, made)
    monkeypatch.setattr(store_requests, "PAUSES", (0.01,) * 5)
    monkeypatch.setattr(store_requests, "STALL", 1.0)
    monkeypatch.setattr(stores, "BLOCK", 2000)
    monkeypatch.setattr(stores._State, "known", {})
    return made


@pytest.mark.parametrize("path", ["datasets/us/texts", "datasets/us/texts/**/*.jsonl"])
def test_a_folder_and_a_glob_with_faults(store, tokenizer, tmp_path, path):
    here = tmp_path / "texts"
    (here / "more").mkdir(parents=True)
    for name in ("a.jsonl", "more/b.jsonl"):
        (here / name).write_bytes(lines_of(60, begin=1000 * len(name)))
        store.files[f"datasets/us/texts/{name}"] = (here / name).read_bytes()
    store.files["datasets/us/texts/README.md"] = b"Texts."
    store.faults += ["503", "cut", "", "stall", "503", "cut"]
    options = {"cache_dir": str(tmp_path / "cache"), "max_length": 16, "stream_above": 0, "prepare_workers": 1}
    remote, local = (
        RawText(TextOptions(path=one, **options), tokenizer=tokenizer)
        for one in (f"{store.scheme}://{path}", str(here))
    )
    assert remote.fingerprint() == local.fingerprint() and remote.counts()["used"] == local.counts()["used"] == 120
    assert remote.files() == [f"{store.scheme}://datasets/us/texts/{name}" for name in ("a.jsonl", "more/b.jsonl")]
    assert not store.faults, "all were met"
    blocks = {
        (name, at) for name, data in store.files.items() if name.endswith(".jsonl") for at in range(0, len(data), 2000)
    }
    assert set(store.asked) == blocks and len(store.asked) == len(blocks) + 5, "what was good is not asked for again"


def test_what_fails_for_good_is_named_at_once_and_what_never_comes_in_the_end(store):
    url = f"{store.scheme}://us/texts/a.jsonl"
    with pytest.raises(UserError, match=rf"^{store.scheme}://us/texts/a.jsonl: no such file in the store$"):
        sources.resolve(url)
    store.files["us/texts/a.jsonl"] = lines_of(60)
    for inside in range(2):  # the ways in which an error has its status
        store.asked[:] = [()] * inside
        store.faults[:] = ["403"]
        with pytest.raises(UserError, match=r"a.jsonl: cannot be read \(Refused: HTTP 403\); check the name, and who"):
            stores.on_disk(url)
        assert len(store.asked) == inside + 1
    for cause, said in ((Refused(401, inside=True), r"\(Refused: HTTP 401\)"), (None, r"\(OSError: Forbidden: us")):
        store.files["us/texts/b.jsonl"] = b"" if cause is None else cause  # as the hub says it, and as gcsfs does
        with pytest.raises(UserError, match=rf"b.jsonl: cannot be read {said}.*; check the name, and who"):
            sources.resolve(f"{store.scheme}://us/texts/b.jsonl")
    for fault, said in (("503", "Refused: HTTP 503"), ("cut", r"OSError: 1,000 of 2,000 bytes came")):
        store.faults[:] = [fault] * 40
        store.asked.clear()
        with pytest.raises(UserError, match=rf"a.jsonl: cannot be fetched, 6 times in a row \({said}\)"):
            stores.on_disk(url)
        assert len(store.asked) == 6


def test_the_lines_of_the_stores_libraries_are_none_of_a_run(store, caplog, monkeypatch):
    for name in stores.CHATTY:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
        logging.getLogger(name).manager._clear_cache()
    monkeypatch.setattr(logging.getLogger("gcsfs"), "level", logging.INFO)  # asked for
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="no such file"):
        sources.resolve(f"{store.scheme}://us/x.jsonl")
    for name in ("botocore.credentials", "aiobotocore.endpoint", "httpx", "gcsfs"):
        logging.getLogger(name).info("Found credentials in environment variables.")
    assert [record.name for record in caplog.records] == ["gcsfs"]


def test_a_file_that_changed_in_the_store_is_fetched_anew(store, tmp_path):
    stores.use(tmp_path)
    url = f"{store.scheme}://us/a.jsonl"
    for begin in (0, 500):
        store.files["us/a.jsonl"] = lines_of(20, begin=begin)
        stores._State.known.clear()
        assert Path(stores.on_disk(url)).read_bytes() == store.files["us/a.jsonl"]


@pytest.mark.parametrize("scheme", STORES)
def test_a_scheme_is_its_library_s_and_the_extra_is_named_where_that_is_missing(scheme, monkeypatch):
    name = STORES[scheme][2]
    package = name.partition(".")[0]
    assert known_implementations[scheme]["class"] == name and stores.PACKAGES[scheme][0] == package
    if importlib.util.find_spec(package):
        found = fsspec.get_filesystem_class(scheme)
        assert found.__name__ == name.partition(".")[2] and scheme in found.protocol
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(_registry, scheme, raising=False)
    extra = stores.PACKAGES[scheme][1]
    with pytest.raises(UserError, match=rf"reading {scheme}:// needs {package}; pip install 'lit-llm\[{extra}\]' \("):
        sources.resolve(f"{scheme}://b/a.jsonl")


def test_a_library_without_its_settings_is_not_called_missing(store, monkeypatch):
    def without(*_, **__):
        raise ValueError("Must provide either a connection_string or account_name with credentials!!")

    monkeypatch.setattr(store, "__init__", without)
    with pytest.raises(UserError, match=r"cannot be used \(Must provide either .* credentials!!\); check its settings"):
        sources.resolve(f"{store.scheme}://b/a.jsonl")
