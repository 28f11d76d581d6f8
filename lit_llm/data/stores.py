"""Files of object stores and web servers, by their URL: fetched whole into a folder of the cache when they are read.

``s3://``, ``gs://``, ``az://``, ``hf://`` and ``https://`` are read with fsspec. A copy lies in ``data.cache_dir``, in
``remote/``, under a hash of URL, size and tag: a file that changed in the store is another one. The copies together
have at most ``MOST`` bytes, or those of the largest file; those that were used longest ago go first.

A request that fails, stalls or gives too few bytes is made again, from the byte where the last good one ended,
``TRIES`` times with growing pauses; then one line names the file. What stalls is asked for in smaller pieces.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from lit_llm.data import store_requests
from lit_llm.data.store_requests import LISTING, TRIES, shown, tried
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import cannot_be_written, sync
from lit_llm.runtime.progress_bars import Bar
from lit_llm.runtime.run_lock import RunLock, alone

log = logging.getLogger(__name__)
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "azure")),
    "hf": ("huggingface_hub", "hub"),
    **dict.fromkeys(("http", "https"), ("aiohttp", "http")),
}
"""By scheme: what fsspec needs, and the extra that brings it."""
CHATTY = ("aiobotocore", "azure", "boto3", "botocore", "google", "httpx", "s3fs", "gcsfs", "urllib3")
"""Loggers of these libraries, which tell of every request or setting."""
MOST = 20 * 2**30
BLOCK, LEAST_BLOCK = 16 * 2**20, 2**18  # bytes of a request; where requests stall
AHEAD = 2  # files that are fetched while another is read
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id", "Digest", "LastModified", "last_modified",
        "Last-Modified", "mtime", "updated")  # fmt: skip
PART = ".part"  # what is fetched of a file so far
_URL = re.compile(rf"({'|'.join(PACKAGES)})://.+", re.IGNORECASE)


@dataclass(frozen=True)
class Remote:
    """A file in a store."""

    url: str
    size: int
    tag: str  # changes with its bytes, where the store says so
    # Where its copy is for as long as this is held, wherever the next run of this process keeps its own.
    cache_dir: Path = field(default_factory=lambda: _State.cache_dir, compare=False)

    @property
    def folder(self) -> Path:
        """Where its copy is."""
        name = hashlib.sha256(f"{self.url}\0{self.size}\0{self.tag}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self.cache_dir / "remote" / name

    @property
    def copy(self) -> Path:
        return self.folder / self.url.rsplit("/", 1)[-1].partition("?")[0]


class _State:
    cache_dir: Path = Path("outputs/cache")
    known: dict[str, Remote] = {}  # noqa: RUF012  (one process reads one store)
    told: set[Remote] = set()  # noqa: RUF012


def is_remote(file: str) -> bool:
    """Whether a path is a URL of a store."""
    return bool(_URL.fullmatch(file))


def use(cache_dir: str | Path) -> None:
    """Copies are in this folder from now on."""
    if Path(cache_dir) != _State.cache_dir:
        _State.cache_dir = Path(cache_dir)
        _State.known = {url: replace(remote, cache_dir=_State.cache_dir) for url, remote in _State.known.items()}


def files_at(url: str) -> list[str]:
    """The URLs of a file, of all below a folder, or of a glob, sorted.

    Raises UserError: nothing is there, it may not be read, the store does not answer, a package is missing.
    """
    store, path = _store(url)
    web = url.lower().startswith("http")

    def look() -> list[tuple[str, dict[str, Any]]]:
        if web:
            return [(url, store.info(path))]
        if any(sign in url for sign in "*?["):
            return list(store.glob(path, detail=True).items())
        found = store.find(path, detail=True)
        return list(found.items()) if found else [(path, store.info(path))]

    found = tried(url, look, within=LISTING)
    files = []
    for name, info in found:
        if info.get("type", "file") != "file":
            continue
        each = name if web else f"{url.partition('://')[0]}://{name}"  # as it was said: az:// is abfs:// too
        files.append(each)
        _State.known[each] = _remote(each, info)
    if not files:
        raise UserError(f"{shown(url)}: no file there")
    return sorted(files)


def of(url: str) -> Remote:
    """What the store says of a file. Raises UserError as ``files_at``."""
    if url not in _State.known:
        store, path = _store(url)
        _State.known[url] = _remote(url, tried(url, lambda: store.info(path)))
    return _State.known[url]


def on_disk(file: str) -> str:
    """A file on this disk that has its bytes: itself, or the copy of one in a store, which is fetched first.

    Raises UserError: it cannot be fetched, or the cache cannot be written.
    """
    if not is_remote(file):
        return file
    remote = of(file)
    if not _is_there(remote):
        with alone(remote.folder, lambda holder: log.info("%s: %s fetches it", shown(file), holder)):
            if not _is_there(remote):
                _make_room(remote)
                _fetch(remote)
                _State.told.add(remote)
    elif not remote.tag and remote not in _State.told:
        _State.told.add(remote)
        log.warning(
            "%s: its server does not tell when it changes: what an earlier run fetched is read; remove %s to have it "
            "fetched again", shown(file), remote.folder,
        )  # fmt: skip
    with suppress(OSError):
        os.utime(remote.copy)  # it is used now
    return str(remote.copy)


def opened(file: str) -> BinaryIO:
    """Open for reading. Raises OSError as ``open``, UserError as ``on_disk``."""
    for _ in range(TRIES):  # a copy may be removed for others' room before it is open; afterwards it stays readable
        with suppress(FileNotFoundError):
            return Path(on_disk(file)).open("rb")
        if not is_remote(file):
            break
    return Path(on_disk(file)).open("rb")


class Ahead:
    """Fetches the next files of a list while one is read: ``with Ahead(files) as ahead: ahead.reads(number)``."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = list(files)
        self._wanted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._begun, self._runs, self._ended = 0, False, False

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True  # what is wanted still is wanted by nobody
        self._wanted.put(None)

    def reads(self, number: int) -> None:
        """File ``number`` is read now."""
        while self._begun < min(number + 1 + AHEAD, len(self._files)):
            if self._begun > number:
                self.wants(self._files[self._begun])
            self._begun += 1

    def wants(self, file: str) -> None:
        """A file will be read."""
        if is_remote(file):
            self._wanted.put(file)
            if not self._runs:  # not before it is needed: processes that are made of this one have no such thread
                threading.Thread(target=self._run, daemon=True).start()
                self._runs = True

    def _run(self) -> None:
        while (file := self._wanted.get()) is not None and not self._ended:
            with suppress(UserError):  # whoever reads it is told
                on_disk(file)


def _store(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0].lower()
    package, extra = PACKAGES[scheme]
    for name in CHATTY:  # a run's log is its own: where credentials were found is none of its lines
        if (logger := logging.getLogger(name)).level == logging.NOTSET:  # nobody asked for more
            logger.setLevel(logging.WARNING)
    try:
        # The same object within a process; another process gets one of its own.
        store = fsspec.filesystem(scheme)
    except Exception as error:  # each store's library has its own
        told = f"({' '.join(str(error).split())[:120]})"
        if isinstance(error, ImportError) or "rotocol not known" in str(error):  # which a package makes known
            raise UserError(
                f"{shown(url)}: reading {scheme}:// needs {package}; pip install 'lit-llm[{extra}]' {told}"
            ) from None
        raise UserError(
            f"{shown(url)}: {package} cannot be used {told}; check its settings in the environment"
        ) from None
    return store, url if scheme.startswith("http") else store._strip_protocol(url)


def _remote(url: str, info: dict[str, Any]) -> Remote:
    size = info.get("size")
    if not isinstance(size, int):
        raise UserError(f"{shown(url)}: the server does not say how long it is, so that a cut file would not be seen; "
                        "download it, and give the file")  # fmt: skip
    return Remote(url, size, next((str(info[name]) for name in TAGS if info.get(name)), ""))


def _is_there(remote: Remote) -> bool:
    try:
        return remote.copy.stat().st_size == remote.size
    except OSError:
        return False


def _fetch(remote: Remote) -> None:
    """Fetches the file into its folder: it has its name when it is whole; what a killed process fetched is gone on
    with."""
    store, path = _store(remote.url)
    part = remote.folder / PART
    pace = _Pace(BLOCK)
    try:
        # Of one that may be another file by now, what was fetched before is not gone on with.
        with part.open("ab" if remote.tag else "wb") as file, Bar(
            total=remote.size, initial=file.tell(), desc=f"fetch {remote.copy.name}", unit="B", unit_scale=True,
            leave=False,
        ) as bar:  # fmt: skip
            if file.tell() > remote.size:
                _empty(file)
            while (begin := file.tell()) < remote.size:
                data = tried(remote.url, lambda begin=begin: _range(store, path, remote, begin, pace), pace.slower)  # type: ignore[misc]
                if data is None:  # the server gives whole files alone
                    tried(remote.url, lambda: _whole(store, path, remote, file, bar), within=float("inf"))
                    continue
                file.write(data)
                bar.update(len(data))
                pace.faster()
        now = _remote(remote.url, tried(remote.url, lambda: _again(store, path)))
        if now != remote:
            part.unlink()
            raise UserError(f"{shown(remote.url)}: changed in the store while it was fetched; start again")
        sync(part)
        part.replace(remote.copy)
    except OSError as error:
        with suppress(OSError):  # others may need the room
            part.unlink()
        if (told := cannot_be_written(remote.copy, error)) is None:
            raise
        raise UserError(f"{told}; set data.cache_dir elsewhere") from None


def _again(store: Any, path: str) -> dict[str, Any]:
    store.invalidate_cache()
    found: dict[str, Any] = store.info(path)
    return found


class _Pace:
    """How many bytes are asked for at once: a quarter after each request that stalls, as over a slow line."""

    def __init__(self, size: int) -> None:
        self.size, self._most = size, size

    def slower(self) -> None:
        self.size = max(min(LEAST_BLOCK, self._most), self.size // 4)

    def faster(self) -> None:
        self.size = min(self._most, 2 * self.size)


def _range(store: Any, path: str, remote: Remote, begin: int, pace: _Pace) -> bytes | None:
    """The bytes from ``begin`` on; None: the server gives a file from its beginning alone, whatever is asked for."""
    end = min(begin + pace.size, remote.size)
    if not remote.url.lower().startswith("http"):
        data: bytes = store.cat_file(path, start=begin, end=end)
    else:  # which holds no more in memory than what was asked for, also of a server that gives all of it
        try:
            with store.open(path, "rb", block_size=BLOCK, cache_type="none", size=remote.size) as file:
                file.seek(begin)
                data = file.read(end - begin)
        except ValueError as error:
            if "range requests" in str(error):
                return None
            raise
    if len(data) != end - begin:
        raise OSError(f"{len(data):,} of {end - begin:,} bytes came")
    return data


def _empty(part: BinaryIO) -> None:
    part.seek(0)  # which ``truncate`` leaves where it was
    part.truncate()


def _whole(store: Any, path: str, remote: Remote, part: BinaryIO, bar: Any) -> None:
    """All of a file in one answer, from its beginning."""
    import aiohttp

    _empty(part)
    bar.reset()
    waits = aiohttp.ClientTimeout(total=None, sock_read=store_requests.STALL)
    with store.open(path, "rb", block_size=0, size=remote.size, timeout=waits) as file:
        while data := file.read(2**20):
            part.write(data)
            bar.update(len(data))
    if part.tell() != remote.size:
        raise OSError(f"{part.tell():,} of {remote.size:,} bytes came")


def _make_room(remote: Remote) -> None:
    """Removes copies, those used longest ago first, so that one more fits."""
    copies = []
    for copy in (remote.cache_dir / "remote").glob("*/*"):
        with suppress(OSError):
            if copy.name == PART or not copy.name.startswith("."):
                copies.append((copy.stat().st_mtime, copy.stat().st_size, copy))
    held = sum(size for _, size, _ in copies)
    for _, much, copy in sorted(copies):
        if held + remote.size <= MOST:
            return
        try:
            with RunLock(copy.parent) if copy.name == PART else nullcontext():  # nobody is at work at it
                copy.unlink()
        except (OSError, UserError):
            continue
        held -= much
